"""Words that carry no meaning of their own, for the languages where leaving them out pays.

English is Lucene's classic list. The others hold articles, pronouns, prepositions, conjunctions
and auxiliaries only. Languages without a list keep every word: IDF makes frequent ones cheap.
"""

STOP_WORDS: dict[str, tuple[str, ...]] = {
    language: tuple(words.split())
    for language, words in {
        "english": (
            "a an and are as at be but by for if in into is it no not of on or such that the "
            "their then there these they this to was will with"
        ),
        "german": (
            "aber als am an auch auf aus bei bin bis bist da das dass dem den der des die dies "
            "diese diesem diesen dieser dieses doch du durch ein eine einem einen einer eines er "
            "es für hat hatte ich ihr im in ist ja kann mit nach nicht noch nur oder sich sie "
            "sind so über um und uns unter vom von vor war waren was wenn wer wie wir wird zu "
            "zum zur"
        ),
        "french": (
            "à au aux avec c ce ces cet cette d dans de des du elle elles en est et eux il ils "
            "j je l la le les leur lui ma mais me mes moi mon n ne nos notre nous on ou où par "
            "pas pour qu que qui s sa se ses son sont sur t ta te tes toi ton tu un une vos "
            "votre vous y"
        ),
        "spanish": (
            "a al como con de del el ella ellas ellos en entre era es esta este esto ha la las "
            "le les lo los más me mi muy nos o para pero por que se si sin sobre son su sus "
            "también te tu un una uno y ya yo"
        ),
        "italian": (
            "a ad al alla alle ai agli anche che chi ci come con da dal dalla dei del della delle "
            "di e è ed gli ha ho i il in io l la le lo ma mi ne nel nella non o per più se si "
            "sono su sul sulla ti tra tu un una uno"
        ),
        "portuguese": (
            "a ao aos as com como da das de do dos e é ela elas ele eles em entre era essa esse "
            "esta este eu foi já lhe mais mas me na nas no nos o os ou para pela pelo por que se "
            "sem seu sua são também te um uma você"
        ),
        "dutch": (
            "aan al als bij dat de den der die dit door een en er had heb het hij hoe hun ik in "
            "is je kan maar me men met mij naar niet nog nu of om onder ons ook op over te tot "
            "uit van voor was wat we wel wie wij zal ze zich zij zijn zo"
        ),
    }.items()
}

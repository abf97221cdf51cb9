"""Train, distil, mine and judge the models of a funnel; `funnel train` is its command line."""

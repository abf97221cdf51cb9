"""The shipped help centre, its graded queries and question streams, and the demo that uses them."""

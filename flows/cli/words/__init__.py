"""Every word that is said to people: the console, and what it says of events, outcomes and plans.

This room lies below `flows`, whose flows speak with it, and imports no verb.
"""

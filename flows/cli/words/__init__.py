"""Every text for people: the console, and how it describes events, outcomes and plans.

This room lies below `flows`, whose flows speak with it, and imports no verb.
"""

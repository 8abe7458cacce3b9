"""Scope: does a query ask for a fact?"""

"""Copies as durable jobs: planned, delegated or pumped here, confirmed, resumed."""

"""Payments: what OpenMeter and Stripe tell of invoices is verified, passed on, and may suspend a tenant."""

"""Commands beyond the stages: exports of finished networks, and their evaluation by the native engine."""

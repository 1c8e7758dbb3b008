"""The ground floor: every value that passes between rooms. Imports nothing of ours."""

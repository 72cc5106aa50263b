"""The board of many models, the badge and the card of one."""

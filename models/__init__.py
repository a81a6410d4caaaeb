"""Parts of networks: backbones, fusion heads, losses."""

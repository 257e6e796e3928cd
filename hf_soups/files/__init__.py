"""Files as hf_soups reads and writes them: JSON records that are checked, files and folders that appear whole."""

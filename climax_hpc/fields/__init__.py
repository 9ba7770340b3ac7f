"""What a field is: variables, grids, regions, periods, calendars, averaging windows."""

"""Numerical methods of heads: functions of arrays that know no file and no cluster."""

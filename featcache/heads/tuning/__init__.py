"""How settings of heads are chosen: cross-validation along paths of strengths. Imports `solvers`."""

# u sends to v
0 1
1 2

% another comment
2	0
4 2
0 1

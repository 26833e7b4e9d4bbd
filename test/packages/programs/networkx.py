# package: networkx
# load: networkx
import networkx as nx

graph = nx.gnm_random_graph(60, 200, seed=4)
print(nx.shortest_path(graph, 0, 20), {k: round(v, 6) for k, v in list(nx.pagerank(graph).items())[:4]})
print(nx.density(graph), sorted(map(len, nx.community.greedy_modularity_communities(graph))), nx.maximum_flow_value(
    nx.DiGraph([(0, 1, {'capacity': 3}), (1, 2, {'capacity': 2}), (0, 2, {'capacity': 1})]), 0, 2))

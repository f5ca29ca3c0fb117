// Package sim is a cluster of thousands of agents in one process. It answers what no lab can: how long until 5,000 nodes agree, and what they ask of
// the API server meanwhile.
//
// What it does: its test runs the agent's own parts, not a copy of them: the loop of package agent, the source of package kubenode, the vxlan, hostgw and
// masq reconcilers, each on a fake kernel of its own (rtnl/rtnltest). Only two things are made up: the kernel, and an API server in memory that
// keeps versions, lists in pages, watches with bookmarks, sends every node's heartbeat, and counts requests and bytes. Time is simulated
// (testing/synctest): a minute costs what is done in it.
//
// The model, with figures measured by test/bench on the real kernel and the real API server: see the constants in model_test.go. A node writes 7 us per object and
// looks at one in 2 us; what the API servers send shares their network; a change reaches a watch within 2 to 20 ms more than that.
//
// How many: an agent among 5,000 nodes and its kernel take about 8 MB here, so 5,000 of them do not fit into most machines. Agents meet in the API server
// only. Those that are not simulated are therefore stood for by the others: of 500 agents of 5,000 nodes, each counts for ten when the API server's network is
// shared and when its requests and bytes are counted. The times are those of the agents that are there; nothing is extrapolated but
// the load. With -sim.agents equal to -sim.nodes nothing is at all.
//
// What it owns, what it touches: memory. Privileges: none. Concurrency: one test.
//
//	go test ./cmd/podnet-agent/internal/sim -run Simulation -timeout 60m -args -sim.nodes 5000 -sim.agents 500
package sim

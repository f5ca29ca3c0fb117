package main

// inGuest is the reason of rows that are about IPVS, which the development kernel lacks.
const inGuest = "IPVS here is the fake that passes its contract; the same with a real kernel, and packets, runs in the guest: make vm-test"

var serviceRows = []row{
	{"D1", "proxy restarted, killed", "no connection fails, no UDP flow moves while endpoints stay; nothing is written", []string{proxyPkg + "TestFaultRestart", proxyPkg + "TestFiles/nftables/restarts", proxyPkg + "TestFiles/iptables/restarts", nft + "TestKernelRestart"},
		"at as many connections a second as four clients make, about 450 on the busy machine"},
	{"D2", "UDP: endpoint removed, the last, the first; Service deleted; ClusterIP reused; proxy stopped meanwhile", "flows to nobody are gone within 1 s of the sync, those of live endpoints stay",
		[]string{"service/conntrack TestKernelSixCases", "service/conntrack TestKernelServiceCIDRs", "service/conntrack TestStale", proxyPkg + "TestFiles/nftables/stale_UDP_flows", proxyPkg + "TestFiles/iptables/stale_UDP_flows"}, ""},
	{"D3", "TCP to an endpoint that is gone", "never deleted by us: connections to endpoints that serve or terminate end by themselves", []string{"service/conntrack TestKernelTCPStays", ipvs + "TestDrain"}, "to one that is gone the client meets a RST or its timeout"},
	{"D4", "packets that connection tracking calls invalid", "tcp_be_liberal is set if asked for; no rule drops them", []string{"service/conntrack TestKernelLimits", "service/conntrack TestLimitsSettings"}, "kube-proxy's drop of all INVALID packets is left out: it hits connections that are none of ours"},
	{"D5", "IPVS: a client port is used again", "conn_reuse_mode, expire_nodest_conn and expire_quiescent_template by the kernel's version", []string{ipvs + "TestSettings", ipvs + "TestLacks"}, inGuest + " (TestRollingUpdate)"},
	{"D6", "IPVS: graceful end", "weight 0 until the last connection, over restarts; UDP at once; a returning endpoint gets its weight back", []string{ipvs + "TestDrain", ipvs + "TestDrainExternal", ipvs + "TestDrainEnds"}, inGuest},
	{"D7", "ip_vs missing, no iptables", "one error that names module and option, nothing written; auto chooses at the start only, and says why",
		[]string{proxyPkg + "TestFaultNoMode", ipvs + "TestLacks", nft + "TestKernelLacks", iptables + "TestLacks"}, "a module that is unloaded while in use is not: the kernel refuses"},
	{"D8", "one bad Service: invalid address, port of another, refused by the kernel", "all others are programmed; Event, counter; isolated without trying each",
		[]string{proxyPkg + "TestKubernetes/events", proxyPkg + "TestFiles/nftables/broken_description", "service TestFaults", "service TestClaims", "service TestOneServiceFails", nft + "TestRefusedService", nft + "TestHostile", iptables + "TestFaults", ipvs + "TestFailEach"}, ""},
	{"D9", "10,000 Services and one with 100,000 endpoints", "one change is in the kernel within 100 ms; below 512 MiB", []string{proxyPkg + "TestFaultHuge"}, "figures of each mode and size: make bench"},
	{"D10", "endpoint flaps", "changes are put together, the last state wins", []string{"service TestRun", proxyPkg + "TestFiles/nftables/endpoints_change"}, ""},
	{"D11", "policy Local without local endpoints; no endpoint; NodePort and local process", "dropped; refused; health check port 503",
		[]string{proxyPkg + "TestFiles/nftables/health_check", "service/internal/wire TestNFTFlows", nft + "TestFlows", ipvs + "TestFlows", iptables + "TestFlows"}, "a process that listens on a NodePort keeps its port and gets no packets from outside: nothing is opened to reserve it"},
	{"D12", "nftables transaction too large, answers lost, old nft program", "split, else nothing is changed", []string{nft + "TestTooLarge", "internal/nfnl TestTooLarge", "internal/nfnl TestLostAnswers", nft + "TestFailEach"}, "no nft program is used"},
	{"D13", "SYN while everything is programmed anew", "an old or a new endpoint, never refused", []string{nft + "TestKernelNoConnectFails", proxyPkg + "TestFiles/nftables/endpoints_change", proxyPkg + "TestFiles/iptables/endpoints_change", ipvs + "TestOrder"}, ""},
	{"D14", "session affinity over restarts", "kept; an endpoint that went is replaced at once", []string{nft + "TestKernelAffinity", iptables + "TestKernelAffinity"}, "IPVS keeps it in the kernel: TestDrain and the wire tests in the guest"},
	{"D15", "topology, terminating endpoints", "kube-proxy's tables; an oracle of its own agrees over random states",
		[]string{"service TestTopology", "service/internal/flowtable TestPlan", "service/internal/flowtable TestOracle", "service/servicetest TestRandom", nft + "TestRandom", ipvs + "TestRandom", iptables + "TestRandom"}, ""},
}

// proxyControlRows have the numbers of controlRows, for the other program.
var proxyControlRows = []row{
	{"EP1", "API server down at start", "kernel state is kept, Services work on", []string{proxyPkg + "TestKubernetes/server_is_gone", source + "TestAPIServer/server_is_gone"}, "after a boot there is nothing to keep: no snapshot on disk, as with kube-proxy"},
	{"EP2", "API server down for long, back", "no connection fails; what changed meanwhile is followed", []string{proxyPkg + "TestKubernetes/server_is_gone", source + "TestAPIServer/server_restarts"}, "seconds, not a day"},
	{"EP3", "half-open watch", "noticed, made anew", []string{source + "TestAPIServer/half_open", source + "TestHalf"}, ""},
	{"EP4", "410 Gone", "a new list, compared with what is known", []string{source + "TestAPIServer/server_restarts", source + "TestStore"}, ""},
	{"EP5", "etcd restored, empty list", "more than half missing: kept for --mass-delete-hold", []string{source + "TestAPIServer/etcd_is_restored", source + "TestMassDelete", source + "TestShrink", "cmd/podnet-proxy/internal/servicefile TestMassDelete"}, ""},
	{"EP6", "RBAC lost, 429", "nothing changes; error is counted; goes on when it may again", []string{source + "TestAPIServer/RBAC_is_lost"}, "429 is client-go's to wait for, and not tried"},
	{"EP7", "clock set, suspend", "", nil, "the machine's clock is not ours to set; timers are monotonic, and nothing is decided by wall time but when an old Service was made"},
	{"EP8", "two proxies in one network namespace", "the second refuses", []string{proxyPkg + "TestFiles/nftables/second_proxy"}, ""},
	{"EP9", "events faster than they are read", "a set of changed names, no queue: nothing overflows", []string{"service TestRun", "service TestTakeIsProportional", "internal/nfnl/nfnltest TestWatch"}, ""},
	{"EP10", "leak of memory", "below 512 MiB at the size of D9", []string{proxyPkg + "TestFaultHuge"}, "not watched for days"},
	{"EP11", "somebody flushes the rules", "repaired within 1 s (nftables), 5 s (iptables), 10 s (virtual servers); connections go on, those that begin just then come through when their SYN is sent again, UDP clients are answered again", []string{proxyPkg + "TestFlush", "internal/nfnl/nfnltest TestHoldNAT", proxyPkg + "TestFiles/nftables/heals", proxyPkg + "TestFiles/iptables/heals", nft + "TestKernelRepair", iptables + "TestKernelRepair", ipvs + "TestWatch"}, ""},
	{"EP12", "kube-proxy's leftovers, and back", "replaced under load, no connection fails; others' rules stay", []string{proxyPkg + "TestReplaceKubeProxy", "cmd/podnet-proxy/internal/leftover TestRestore", "cmd/podnet-proxy/internal/leftover TestRestoreShared"}, "connections through IPVS end when the mode is another: docs/migrate-from-kube-proxy.md"},
}

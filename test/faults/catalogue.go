package main

import "slices"

// row is one fault of the catalogue.
type row struct {
	ID    string
	Fault string
	Want  string // what has to come of it
	// Tests prove it: "package Test" or "package Test/subtest", as go test prints the name.
	Tests []string
	// Reason says why there is no test, or what the tests leave out.
	Reason string
}

// area is a part of the catalogue.
type area struct {
	Name string
	Rows []row
}

// Packages with tests in the catalogue.
const (
	agentPkg = "cmd/podnet-agent "
	loop     = "cmd/podnet-agent/internal/agent "
	kube     = "cmd/podnet-agent/internal/kubenode "
	cni      = "cmd/podnet-cni "
	store    = "ipam/filestore "
	heals    = agentPkg + "TestFaultHeals/event/"
	silent   = agentPkg + "TestFaultHeals/silent/" // an agent that hears no event of the kernel
	api      = agentPkg + "TestFaultKubernetes/"   // a real API server
	proxyPkg = "cmd/podnet-proxy "
	nft      = "service/nft "
	ipvs     = "service/ipvs "
	iptables = "service/iptables "
	source   = "service/kube "
)

// hostGW is a fault of the backend host-gw, both ways.
func hostGW(name string) []string {
	return []string{agentPkg + "TestFaultHealsHostGW/event/" + name, agentPkg + "TestFaultHealsHostGW/silent/" + name}
}

// both is a fault that is healed when its event comes, and when it is lost.
func both(name string) []string { return []string{heals + name, silent + name} }

var catalogue = []area{
	{"Issue 3: the agent on Kubernetes", issueRows},
	{"A. CNI plugin and IPAM", pluginRows},
	{"B. Agent: VXLAN and host-gw", agentRows},
	{"C. Masquerade and netfilter", masqueradeRows},
	{"D. Service proxy", serviceRows},
	{"E. Control plane and time", controlRows},
	{"E. Control plane and time: the service proxy", proxyControlRows},
}

const (
	healed    = "back within 1 s of the event, within 10 s without one"
	unnoticed = "no packet of 1,000 a second is lost; nothing in the kernel changes"
)

var issueRows = []row{
	{"K1", "API server down at start", "works with the last good state, from the disk; " + unnoticed, []string{api + "API_server_down_at_start", kube + "TestSourceDisk", kube + "TestDiskFaults"}, ""},
	{"K2", "API server down for hours", unnoticed + "; under 1 % of a CPU; in touch again within 45 s", []string{api + "API_server_down_for_hours", api + "API_server_back"},
		"hours are compressed to 40 s: an agent without API server only tries again, at most every 30 s"},
	{"K3", "API server half-open (stopped, connections open)", "noticed within 45 s; " + unnoticed, []string{api + "half-open", "cmd/podnet-agent/internal/kubeapi TestHalfOpen"}, ""},
	{"K4", "410 Gone: the history that the agent missed is gone", "lists anew, sees the deletions; " + unnoticed + " for the others", []string{api + "history_gone_(410)"}, ""},
	{"K5", "429 Too Many Requests", "waits as told, publishes later; " + unnoticed, []string{api + "throttled_(429)", kube + "TestSourceThrottled"}, ""},
	{"K6", "RBAC lost", "metric, readyz and Event say so; recovers when it is given back; " + unnoticed, []string{api + "RBAC_lost", kube + "TestPublishRefused"}, ""},
	{"K7", "token rotated", "reads the new one; " + unnoticed, []string{api + "token_rotated"}, ""},
	{"K8", "etcd restored to an older state", "lists anew and follows that; " + unnoticed + " for the others", []string{api + "etcd_restored_to_an_older_state"},
		"noticed by the resourceVersion: a restored cluster that has written more than was lost, before the agent comes back, is seen as one that went on"},
	{"K9", "more than half of the nodes are gone at once", "kept for --mass-delete-hold, with a note; then let go", []string{api + "mass_deletion/restored", api + "mass_deletion/one_after_the_other", loop + "TestGuard", loop + "TestLoopHoldsPeers", kube + "TestSourceShrunkList"}, ""},
	{"K10", "node deleted and made again with another podCIDR", "publishes on the new object; follows without a restart", []string{agentPkg + "TestKubernetesNodeReplaced"}, ""},
	{"K11", "two nodes with one podCIDR", "the older one has it, on every node; Event on both, condition on the younger; " + unnoticed, []string{api + "two_nodes_with_one_podCIDR", kube + "TestSettle"}, ""},
	{"K12", "two nodes with one address", "the same", []string{api + "two_nodes_with_one_address", kube + "TestSettle"}, ""},
	{"K13", "old Node object deleted after its replacement", unnoticed, []string{api + "old_Node_deleted_after_its_replacement", kube + "TestSettleReplace"}, ""},
	{"K14", "annotation hostile or huge (250 KiB)", "one count, nothing else", []string{api + "annotations_hostile_or_huge", "cmd/podnet-agent/internal/flannel TestDecodeHostile", "cmd/podnet-agent/internal/flannel FuzzAnnotations", "cmd/podnet-agent/internal/kubeapi FuzzDecode"},
		"here the fuzz targets run their seeds; make fuzz runs them for longer"},
	{"K15", "VTEP deleted", healed, both("VTEP_deleted"), ""},
	{"K16", "MAC of the VTEP rewritten", healed, both("VTEP's_MAC_rewritten"), ""},
	{"K17", "MTU of the VTEP rewritten", healed, both("VTEP's_MTU_rewritten"), ""},
	{"K18", "routes flushed (VXLAN, host-gw)", healed, slices.Concat(both("routes_flushed"), hostGW("routes_flushed")), ""},
	{"K19", "FDB flushed", healed, both("FDB_flushed"), ""},
	{"K20", "neighbours flushed", healed, both("neighbours_flushed"), ""},
	{"K21", "nft flushed", healed, both("nft_flushed"), ""},
	{"K22", "uplink flapping: carrier, down and up, deleted and made again", "first packet within 1 s of the last change, within 10 s without an event",
		slices.Concat(both("uplink_loses_its_carrier_ten_times"), both("uplink_down_and_up_ten_times"), both("uplink_deleted_and_made_again"),
			hostGW("uplink_loses_its_carrier_ten_times"), hostGW("uplink_down_and_up_ten_times"), hostGW("uplink_deleted_and_made_again")),
		"an uplink with another MAC is for ARP to find out; with host-gw that takes up to the 45 s that peers believe in the old one"},
	{"K23", "ENOBUFS on the subscription", "whole look within 2 s, counted", []string{agentPkg + "TestFaultOverflow"}, ""},
	{"K24", "agent SIGKILLed 100 times", unnoticed, []string{agentPkg + "TestFaultKilled100"}, ""},
	{"K25", "two agents on one node", "the second refuses, whatever its state directory", []string{agentPkg + "TestFaultSecondAgent"}, ""},
}

var pluginRows = []row{
	{"A1", "SIGKILL at any system call of ADD", "DEL leaves nothing; the next ADD works; no other pod notices", []string{cni + "TestKilledAnywhere", cni + "TestKernelKilled", store + "TestFaultAtEachCall", store + "TestKill"}, ""},
	{"A2", "SIGKILL at any system call of DEL or GC", "a second DEL finishes", []string{cni + "TestKernelKilled", store + "TestFaultAtEachCall"}, "GC is killed in the store's test only"},
	{"A3", "ADD timed out, its DEL never comes", "GC frees the lease, and never one of a live pod", []string{cni + "TestGC", cni + "TestKernelGC"}, "the agent frees no leases: that is the runtime's GC"},
	{"A4", "power loss after ADD returned", "every acknowledged lease is there, none is half-written", []string{store + "TestPowerCut"}, ""},
	{"A5", "reboot", "leases of the boot before are dropped", []string{store + "TestNewBootDropsLeases"}, ""},
	{"A6", "state file torn, empty, foreign, or a directory", "error or repair, no panic, no address given twice", []string{store + "TestDamagedFile", store + "TestReplaced", store + "TestOpenRefuses", store + "FuzzSlot", "ipam TestDamagedStore"}, ""},
	{"A7", "ENOSPC, EROFS, EIO on any write", "ADD fails with a code of CNI and keeps nothing; DEL frees", []string{cni + "TestKernelFullDisk", cni + "TestFullDisk", store + "TestFullDisk", store + "TestFaultAtEachCall"}, ""},
	{"A8", "fsync returns EIO once", "written to a new inode, never believed later", []string{store + "TestFailedSyncNeverSucceedsLater", store + "TestFullDiskAfterFailedSync"}, ""},
	{"A9", "DEL twice, before ADD, without prevResult or netns", "status 0, lease freed", []string{cni + "TestDelNeedsLittle", cni + "TestKernelLifecycle"}, ""},
	{"A10", "netns gone before DEL, or its path another container's", "freed by container ID; the other is not touched", []string{cni + "TestKernelDelOtherNetns", "veth TestRemoval"}, ""},
	{"A11", "netns vanishes during ADD", "error, nothing is left", []string{cni + "TestAddFailsAnywhere", "veth TestRace"}, "each call of ADD is refused in turn, also those on the netns"},
	{"A12", "many ADDs at once", "no error, no address twice", []string{cni + "TestKernelConcurrentAdds", store + "TestManyProcesses", "veth TestConcurrentAdds"}, ""},
	{"A13", "ADD and DEL, or two ADDs, of one container at once", "the end of one of the serial orders", []string{cni + "TestKernelAddAndDelAtOnce", "veth TestSameOwnerAtOnce", cni + "TestLockAttachments"}, ""},
	{"A14", "holder of the lock killed, lock file deleted", "lock is free; who holds a deleted one writes nothing; waiting ends", []string{store + "TestStolenLock", store + "TestLockTimeout", store + "TestKill"}, "locks on NFS are not supported: state directories are local"},
	{"A15", "pool exhausted, then one freed", "error names pool and use; then works; addresses rest first", []string{cni + "TestAddExhausted", "ipam TestReuseDelay"}, ""},
	{"A16", "range changed with live leases; two networks on one bridge", "old leases releasable; the contradiction is refused", []string{"ipam TestRangesChangeWhileLive", cni + "TestTwoNetworksOneBridge"}, ""},
	{"A17", "bridge has a foreign or old address", "ours is replaced, another's is an error that names both", []string{"bridge TestKernelStates", "bridge TestApply"}, ""},
	{"A18", "half-written configuration or binary", "replaced in one step, configuration last", []string{"cmd/podnet-agent/internal/install TestKilled", "cmd/podnet-agent/internal/install TestFullDisk", "cmd/podnet-agent/internal/install TestAtOnce", "cmd/podnet-agent/internal/install TestRepairs"}, ""},
	{"A19", "older and newer versions side by side", "the store says who may read and write it; a newer one is refused clearly", []string{store + "TestNewerSchemaStillReadable", store + "TestOpenRefuses"}, ""},
	{"A20", "veth name taken, leftover of a veth", "ours is replaced, another's is left alone and named", []string{"veth TestForeign", "veth TestKernelStates"}, ""},
	{"A21", "MACs rewritten by udev or by joining ports", "bridge keeps its MAC; the next Apply repairs a pod's", []string{"bridge TestKernel", "veth TestDrift"}, ""},
	{"A22", "sysctls turned off", "back within 10 s: the kernel announces none", []string{heals + "forwarding_turned_off", silent + "forwarding_turned_off", loop + "TestSysctls"}, ""},
	{"A23", "IPv6 duplicate address detection", "usable when ADD returns; a refused address is made again", []string{"veth TestPodsTalkAtOnce", "veth TestDADFailed"}, ""},
	{"A24", "netlink dump interrupted", "repeated; a part is never taken for the whole", []string{"rtnl TestDumpWhileTableChanges", "rtnl TestRepeatDump"}, ""},
	{"A25", "interface name eth%d, too long, x;reboot", "refused before anything is touched", []string{"internal/check TestDevice", cni + "TestConfigFaults", "rtnl TestCheckName"}, ""},
	{"A26", "thread left in another netns", "never", []string{"rtnl TestThreadsStayHome", "internal/netns TestDoStaysOutOfOtherThreads"}, ""},
	{"A27", "uplink smaller than the pods' links", "pod MTU is what the smallest tunnel carries", []string{loop + "TestPodMTU", "vxlan TestLargestPacket"}, ""},
}

var agentRows = []row{
	{"B1", "VXLAN device deleted, or down", healed + ", with the same MAC", slices.Concat(both("VTEP_deleted"), both("VTEP_down")), ""},
	{"B2", "uplink deleted and made again, flaps", "followed, never an exit", slices.Concat(both("uplink_deleted_and_made_again"), both("uplink_down_and_up_ten_times"), hostGW("uplink_deleted_and_made_again"), []string{agentPkg + "TestCluster/uplink"}), ""},
	{"B3", "routes, neighbours, FDB removed", healed + "; routes of others are kept and reported", slices.Concat(both("routes_flushed"), hostGW("routes_flushed"), both("neighbours_flushed"), both("FDB_flushed"), []string{"vxlan TestForeignRouteInTheWay"}), ""},
	{"B4", "policy rules removed", "", nil, "podnet makes no policy rules"},
	{"B5", "MAC of the VXLAN device rewritten", healed, both("VTEP's_MAC_rewritten"), ""},
	{"B6", "a peer's MAC or address changes, in one family too", "old entries are gone, new ones there, others untouched", []string{"vxlan TestOneChange", kube + "TestSourceFollows", "vxlan TestAnySequenceConverges"}, ""},
	{"B7", "peer deleted while the agent is down", "gone before the agent is ready", []string{agentPkg + "TestFaultPeerGoneMeanwhile", api + "history_gone_(410)"}, ""},
	{"B8", "two nodes with one podCIDR", "see K11", []string{api + "two_nodes_with_one_podCIDR", "vxlan TestTheFirstByNameWins"}, ""},
	{"B9", "two nodes with one address or VTEP MAC", "see K12", []string{api + "two_nodes_with_one_address", kube + "TestSettle"}, ""},
	{"B10", "replacement has the podCIDR, then the old object is deleted", "see K13", []string{api + "old_Node_deleted_after_its_replacement", kube + "TestSettleReplace", "vxlan TestNoPacketIsLost"}, ""},
	{"B11", "own node deleted and made again", "see K10", []string{agentPkg + "TestKubernetesNodeReplaced"}, ""},
	{"B12", "annotations wiped", "published again within 1 s; peers keep what they knew for a minute", []string{agentPkg + "TestKubernetes/annotations_wiped", kube + "TestSourceWipedAnnotations"}, ""},
	{"B13", "annotation malformed or hostile", "see K14", []string{api + "annotations_hostile_or_huge", kube + "TestPeer", loop + "TestEachPeer"}, ""},
	{"B14", "uplink MTU changes", "VTEP and subnet file follow", []string{agentPkg + "TestCluster/uplink", "vxlan TestMTU"}, ""},
	{"B15", "UDP port blocked or taken", "", nil, "podnet sends no probes; the port can be set, and a taken one is an error of the device"},
	{"B16", "checksum offload bug of VXLAN", "off where the kernel has the bug", []string{"vxlan TestTxChecksumFor"}, "the kernels that have it are not at hand"},
	{"B17", "kernel lacks vxlan, nft, nexthop objects", "error says what is missing; the agent goes on", []string{"vxlan TestOldKernel", "masq TestKernelErrors", loop + "TestLoopFailureAndBackoff"}, "modules are built into the test kernel: the fake refuses instead"},
	{"B18", "neighbour table full", "5,000 peers fit: permanent entries do not count", []string{agentPkg + "TestMemory"}, ""},
	{"B19", "ENOBUFS on a subscription", "see K23", []string{agentPkg + "TestFaultOverflow", "rtnl TestWatchOverflow", "masq TestKernelWatchOverflow"}, ""},
	{"B20", "netlink returns errors at random", "comes to the same end; no busy loop", []string{"vxlan TestFailEach", "hostgw TestFailEach", loop + "TestEveryCallFails", loop + "TestLoopFailingWritesDoNotSpin"}, ""},
	{"B21", "leftovers of another CNI", "taken over only if told to, else an error with the command that helps", []string{"vxlan TestForeignDevice", agentPkg + "TestTakeOver"}, ""},
	{"B22", "host-gw peer not on the link", "refused with a reason; the others are served", []string{"hostgw TestRefusedPeers"}, ""},
	{"B23", "agent killed, restarted", "see K24", []string{agentPkg + "TestFaultKilled100", agentPkg + "TestCluster/restarts"}, ""},
	{"B24", "slow or hung disk", "the data path does not wait for it", []string{loop + "TestSlowWork"}, ""},
	{"B25", "subnet file truncated", "error, no panic; written in one step", []string{"internal/subnetenv TestParseFaults", "internal/subnetenv FuzzParse", "internal/subnetenv TestWriteFailureKeepsOld", "cmd/podnet-agent/internal/handoff TestApplyFails"}, ""},
}

var masqueradeRows = []row{
	{"C1", "firewalld reloads", "own table back: " + healed, both("nft_flushed"), "firewalld itself is not run: its reload deletes tables, as flushing does"},
	{"C2", "nft flush ruleset", healed, append(both("nft_flushed"), "masq TestKernelWatch"), ""},
	{"C3", "xtables lock held", "", nil, "the default, nftables, has no such lock; with iptables the wait is bounded by go-iptables"},
	{"C4", "legacy and nft side by side", "one backend is chosen; rules of others stay", []string{"masq TestBackend", "masq TestContractLegacy", "masq TestKernelForeign"}, ""},
	{"C5", "rules of ours deleted, reordered, duplicated", "exactly one set, after 1,000 cycles too", append(both("nft_chain_flushed"), "masq TestKernelRepair", "masq TestKernelCycles"), ""},
	{"C6", "ports of translations clash", "none with fully random ports", []string{"masq TestKernelPortClash"}, ""},
	{"C7", "connection table full", "", nil, "its size is the host's, or kube-proxy's; podnet does not set it"},
	{"C8", "podCIDR changes with old rules there", "found by ownership and replaced", []string{"masq TestReplace"}, ""},
	{"C9", "br_netfilter off", "", nil, "podnet's rules see routed packets, and do not need it"},
}

var controlRows = []row{
	{"E1", "API server down at start", "see K1", []string{api + "API_server_down_at_start"}, ""},
	{"E2", "API server down for a day", "see K2", []string{api + "API_server_down_for_hours", api + "API_server_back"}, "compressed, see K2"},
	{"E3", "half-open watch", "see K3", []string{api + "half-open", "cmd/podnet-agent/internal/kubeapi TestHalfOpen"}, ""},
	{"E4", "410, list cut off", "see K4", []string{api + "history_gone_(410)", "cmd/podnet-agent/internal/kubeapi TestListCut"}, ""},
	{"E5", "empty list, restored etcd", "see K8 and K9", []string{api + "etcd_restored_to_an_older_state", api + "mass_deletion/restored"}, ""},
	{"E6", "429, 403, 401", "see K5, K6, K7", []string{api + "throttled_(429)", api + "RBAC_lost", api + "token_rotated"}, "an expired client certificate is not tried"},
	{"E7", "clock set, suspend", "leases do not rest until then", []string{"ipam TestClockSetBack"}, "the machine's clock is not ours to set; the agent's timers are monotonic"},
	{"E8", "two agents on one node", "see K25", []string{agentPkg + "TestFaultSecondAgent"}, ""},
	{"E9", "events faster than they are read", "nothing is queued that could overflow: the last state counts", []string{agentPkg + "TestFaultOverflow", loop + "TestLoopFightsSlowly"}, ""},
	{"E10", "leak of memory", "5,000 nodes stay below 64 MiB", []string{agentPkg + "TestMemory"}, "not watched for days"},
}

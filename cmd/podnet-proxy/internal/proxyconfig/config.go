package proxyconfig

import (
	"net/netip"
	"time"

	"k8s.io/kube-proxy/config/v1alpha1"
)

// Modes of --mode. The empty mode of a configuration file is Auto.
const (
	Auto     = "auto"
	NFTables = "nftables"
	IPVS     = "ipvs"
	IPTables = "iptables"
)

// Modes of --detect-local-mode.
const (
	DetectClusterCIDR = "ClusterCIDR"
	DetectNodeCIDR    = "NodeCIDR"
	DetectBridge      = "BridgeInterface"
	DetectPrefix      = "InterfaceNamePrefix"
)

// Config is everything that podnet-proxy is told, checked.
type Config struct {
	Version, Cleanup, CleanupKubeProxy, InitOnly bool
	ReplaceKubeProxy                             bool                            // remove what kube-proxy left once everything stands
	SysctlDir                                    string                          // where the kernel's settings are; "" = /proc/sys
	WriteConfigTo                                string                          // write KubeProxy there and end
	KubeProxy                                    v1alpha1.KubeProxyConfiguration // the file, or the flags, with defaults

	Mode     string // Auto, NFTables, IPVS or IPTables
	FileMode string // what the file or --proxy-mode says
	NodeName string

	Kubernetes Kubernetes
	Services   string // path of the file source; "" = Kubernetes
	Hold       time.Duration

	BindAddress      netip.Addr     // overrides the node's address; invalid = as the Node says
	Healthz, Metrics netip.AddrPort // invalid = off
	BindHardFail     bool
	Profiling        bool
	OOMScoreAdj      int

	SyncPeriod    time.Duration
	MinSyncPeriod time.Duration
	MasqueradeAll bool
	MasqueradeBit int
	DetectLocal   DetectLocal
	NodePorts     NodePorts
	ExternalCIDRs []netip.Prefix
	VirtualServer VirtualServer
	Conntrack     Conntrack

	Verbosity int
	LogJSON   bool

	Warnings []string // one line each
}

// Kubernetes says how to reach the API server.
type Kubernetes struct {
	Kubeconfig string // path; "" = this pod's service account
	Master     string // URL that wins over the kubeconfig's
	QPS        float32
	Burst      int
}

// DetectLocal says how traffic of this node's pods is told from other traffic.
type DetectLocal struct {
	Mode         string         // one of the four
	ClusterCIDRs []netip.Prefix // DetectClusterCIDR; none = traffic is never known as local
	Bridge       string         // DetectBridge
	Prefix       string         // DetectPrefix
}

// NodePorts says which of the node's addresses serve NodePorts.
type NodePorts struct {
	Default bool           // nothing was said: primary with nftables, all with others, as in kube-proxy
	Primary bool           // only the node's primary addresses
	CIDRs   []netip.Prefix // only those in one of these; none and not Primary = all
}

// VirtualServer is what only ipvs mode uses.
type VirtualServer struct {
	Scheduler                          string // "" = rr
	StrictARP                          bool
	TCPTimeout, TCPFinTimeout, UDPTime time.Duration // 0 = as the kernel has it
}

// Conntrack is what the kernel's connection tracking is set to.
type Conntrack struct {
	MaxPerCore, Min              int           // MaxPerCore 0 = leave the maximum alone
	TCPEstablished, TCPCloseWait time.Duration // 0 = leave alone
	UDP, UDPStream               time.Duration // 0 = leave alone
	BeLiberal                    bool
}

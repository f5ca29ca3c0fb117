package masq_test

import "github.com/podnet/podnet/masq"

// The cluster of the packet tests: a node with one local pod, a remote node's pod behind a tunnel, and two hosts outside.
const (
	podV4, podV6             = "10.244.1.2", "fd00:10:1::2"
	gatewayV4, gatewayV6     = "10.244.1.1", "fd00:10:1::1" // the node on the pods' bridge
	remoteV4, remoteV6       = "10.244.2.2", "fd00:10:2::2"
	tunnelV4, tunnelV6       = "10.245.0.1", "fd00:20::1" // the node on the tunnel
	uplinkV4, uplinkV6       = "192.0.2.1", "2001:db8::1" // the node on its own network
	outsideV4, outsideV6     = "192.0.2.2", "2001:db8::2"
	exceptedV4, exceptedV6   = "198.51.100.2", "2001:db8:100::2"
	multicastV4, multicastV6 = "224.0.0.251", "ff02::fb" // a group of one link; see also RFC 6762
)

func dualStack() masq.Config {
	return masq.Config{
		PodCIDRs:      cidrs("10.244.1.0/24", "fd00:10:1::/64"),
		ClusterCIDRs:  cidrs("10.244.0.0/16", "fd00:10::/32"),
		NonMasquerade: cidrs("198.51.100.0/24", "2001:db8:100::/48"),
	}
}

// packets says for each rule what it is there for. The same packets go through the fake's rules and through a kernel's.
var packets = []struct {
	name     string
	from, to string // hosts of the packet tests; to may be a group
	src, dst [2]string
	mark     int
	want     masq.Verdict
}{
	{name: "1 marked for the service proxy", from: "node", to: "outside", src: [2]string{gatewayV4, gatewayV6}, dst: [2]string{outsideV4, outsideV6}, mark: 0x4000, want: masq.Return},
	{name: "1 marked among other bits", from: "node", to: "outside", src: [2]string{gatewayV4, gatewayV6}, dst: [2]string{outsideV4, outsideV6}, mark: 0x14001, want: masq.Return},
	{name: "1 other mark", from: "node", to: "outside", src: [2]string{gatewayV4, gatewayV6}, dst: [2]string{outsideV4, outsideV6}, mark: 0x8000, want: masq.Masquerade},
	{name: "2 local pod to remote pod", from: "pod", to: "remote", src: [2]string{podV4, podV6}, dst: [2]string{remoteV4, remoteV6}, want: masq.Return},
	{name: "3 remote pod to local pod", from: "remote", to: "pod", src: [2]string{remoteV4, remoteV6}, dst: [2]string{podV4, podV6}, want: masq.Return},
	{name: "4 client outside to local pod", from: "outside", to: "pod", src: [2]string{outsideV4, outsideV6}, dst: [2]string{podV4, podV6}, want: masq.Return},
	{name: "4 node to local pod", from: "node", to: "pod", src: [2]string{uplinkV4, uplinkV6}, dst: [2]string{podV4, podV6}, want: masq.Return},
	{name: "5 local pod to outside", from: "pod", to: "outside", src: [2]string{podV4, podV6}, dst: [2]string{outsideV4, outsideV6}, want: masq.Masquerade},
	{name: "5 remote pod to outside", from: "remote", to: "outside", src: [2]string{remoteV4, remoteV6}, dst: [2]string{outsideV4, outsideV6}, want: masq.Masquerade},
	{name: "5 local pod to excepted", from: "pod", to: "excepted", src: [2]string{podV4, podV6}, dst: [2]string{exceptedV4, exceptedV6}, want: masq.Return},
	{name: "5 pod range to multicast", from: "node", to: "outside", src: [2]string{gatewayV4, gatewayV6}, dst: [2]string{multicastV4, multicastV6}, want: masq.Return},
	{name: "6 node to remote pod", from: "node", to: "remote", src: [2]string{uplinkV4, uplinkV6}, dst: [2]string{remoteV4, remoteV6}, want: masq.Masquerade},
	{name: "6 client outside to remote pod", from: "outside", to: "remote", src: [2]string{outsideV4, outsideV6}, dst: [2]string{remoteV4, remoteV6}, want: masq.Masquerade},
	{name: "6 excepted host to remote pod", from: "excepted", to: "remote", src: [2]string{exceptedV4, exceptedV6}, dst: [2]string{remoteV4, remoteV6}, want: masq.Masquerade},
	{name: "node to outside", from: "node", to: "outside", src: [2]string{uplinkV4, uplinkV6}, dst: [2]string{outsideV4, outsideV6}, want: masq.Return},
}

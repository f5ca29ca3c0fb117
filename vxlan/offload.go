package vxlan

import (
	"fmt"

	"github.com/podnet/podnet/rtnl"
)

// TxChecksumFor returns the transmit checksum offload that a VTEP gets by default on a kernel release (uname -r, "6.1.0-18-amd64").
//
// Off before 4.19.123, 5.4.41 and 5.6.13, and in the series between: there a packet that the node itself sends to a service address and
// that is masqueraded on its way into the tunnel leaves with a wrong outer checksum, is dropped by the receiver, and connections take 63
// seconds (Kubernetes issue 88986, Calico issue 3145, Flannel pull request 1282).
//
// On for later ones: without it every segment is cut and summed by the CPU before it is encapsulated, which made one TCP flow between
// two namespaces 3 to 4 times slower (Linux 6.18: 11 to 17 against 3.4 to 3.8 Gbit/s). Calico issue 11435 (November 2025, open) tells of
// one site where Linux 6.12 did 0.05 to 0.3 Gbit/s with it and 9 without: there, set Config.TxChecksum to Off.
//
// Unset (left alone) if the release cannot be told.
func TxChecksumFor(release string) rtnl.Switch {
	var major, minor, patch int
	if n, _ := fmt.Sscanf(release, "%d.%d.%d", &major, &minor, &patch); n < 2 {
		return rtnl.Unset
	}
	fixed := 0
	switch version := major<<16 | minor; {
	case version > 5<<16|6:
		return rtnl.On
	case version == 5<<16|6:
		fixed = 13
	case version == 5<<16|4:
		fixed = 41
	case version == 4<<16|19:
		fixed = 123
	default:
		return rtnl.Off
	}
	if patch < fixed {
		return rtnl.Off
	}
	return rtnl.On
}

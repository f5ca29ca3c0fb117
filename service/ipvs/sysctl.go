package ipvs

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/podnet/podnet/rtnl"
)

// setting is a sysctl that is set if it is less than wanted, or with exact if it is not just so.
type setting struct {
	name  string
	value int
	exact bool
	lacks string // what a kernel without it lacks
}

// settings are what this package needs, by the kernel's release.
func settingsFor(release string, o Options) []setting {
	all := []setting{
		// SNAT of what IPVS forwards, and that nftables sees its connections.
		{"net/ipv4/vs/conntrack", 1, true, "the kernel option CONFIG_IP_VS_NFCT"},
		// A packet to a real server that is gone ends its connection: else UDP clients with one port would be lost (kubernetes#76664).
		{"net/ipv4/vs/expire_nodest_conn", 1, true, "the module ip_vs (CONFIG_IP_VS)"},
		// Clients of a persistent virtual server leave a real server of weight 0 (kubernetes#71809).
		{"net/ipv4/vs/expire_quiescent_template", 1, true, "the module ip_vs (CONFIG_IP_VS)"},
	}
	switch major, minor := version(release); {
	case older(major, minor, 4, 1): // it is not there
	case older(major, minor, 5, 9):
		// A client port that is used again gets the old connection; with 1 these kernels drop the first packet, which costs a second (kubernetes#81775).
		all = append(all, setting{"net/ipv4/vs/conn_reuse_mode", 0, true, "Linux 4.1"})
	default:
		all = append(all, setting{"net/ipv4/vs/conn_reuse_mode", 1, true, "Linux 4.1"})
	}
	if o.StrictARP {
		all = append(all, setting{"net/ipv4/conf/all/arp_ignore", 1, false, "IPv4"}, setting{"net/ipv4/conf/all/arp_announce", 2, false, "IPv4"})
	}
	return all
}

// change returns what has to be written, by what is there.
func (s setting) change(have string) (rtnl.Change, bool) {
	n, err := strconv.Atoi(strings.TrimSpace(have))
	if err == nil && (n == s.value || !s.exact && n > s.value) {
		return rtnl.Change{}, false
	}
	return rtnl.Change{Verb: rtnl.Set, Object: rtnl.Sysctl{Name: s.name, Value: strconv.Itoa(s.value)}}, true
}

// version reads "6.1.0-56-amd64". What cannot be read is 0.
func version(release string) (major, minor int) {
	first, rest, _ := strings.Cut(release, ".")
	second, _, _ := strings.Cut(rest, ".")
	second, _, _ = strings.Cut(second, "-")
	major, _ = strconv.Atoi(first)
	minor, _ = strconv.Atoi(second)
	return major, minor
}

func older(major, minor, thanMajor, thanMinor int) bool {
	return major < thanMajor || major == thanMajor && minor < thanMinor
}

func (s setting) missing(err error) error {
	return fmt.Errorf("sysctl %s: the kernel lacks %s: %w", strings.ReplaceAll(s.name, "/", "."), s.lacks, err)
}

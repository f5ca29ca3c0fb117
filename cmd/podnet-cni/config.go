package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"

	"github.com/podnet/podnet/internal/subnetenv"
	"github.com/podnet/podnet/rtnl"
)

// Defaults, as in the bridge plugin but for the directory: the state has a format of its own.
const (
	defaultBridge  = "cni0"
	defaultDataDir = "/var/lib/cni/podnet"
)

// config is a network configuration that has been validated, with the node's subnet file and the arguments of this call worked in.
type config struct {
	name    string
	dataDir string

	bridge         string
	gateway        bool // the bridge has the gateway addresses
	defaultGateway bool // and the pods' default routes point there
	forceAddress   bool
	mtu            int
	hairpin        bool
	mac            rtnl.MAC

	masq          bool
	masqBackend   string
	networks      []netip.Prefix // the pods of the whole cluster, from the subnet file
	nonMasquerade []netip.Prefix

	rangeSets []rangeSet // a pod gets one address of each
	routes    []route
	dns       types.DNS

	prevResult  json.RawMessage
	attachments []types.GCAttachment
}

// decode reads the JSON. It asks for no more than DEL and GC need, so that they work whatever was wrong with the rest.
func decode(args *skel.CmdArgs) (confJSON, error) {
	var c confJSON
	if err := json.Unmarshal(args.StdinData, &c); err != nil {
		return c, types.NewError(types.ErrDecodingFailure, "decode the configuration: "+err.Error(), "")
	}
	if c.IPAM.DataDir == "" {
		c.IPAM.DataDir = defaultDataDir
	}
	if !filepath.IsAbs(c.IPAM.DataDir) || strings.ContainsRune(c.IPAM.DataDir, 0) {
		return c, types.NewError(types.ErrInvalidNetworkConfig, fmt.Sprintf("ipam.dataDir %q: want an absolute path", c.IPAM.DataDir), "")
	}
	if c.Bridge == "" {
		c.Bridge = defaultBridge
	}
	return c, nil
}

// load decodes and validates everything. It reports every fault at once.
func load(args *skel.CmdArgs) (config, error) {
	j, err := decode(args)
	if err != nil {
		return config{}, err
	}
	env, err := parseArgs(args.Args)
	if err != nil {
		return config{}, err
	}
	if err := unsupported(j); err != nil {
		return config{}, err
	}
	var subnets subnetenv.Env
	if j.SubnetFile != "" {
		if subnets, err = readSubnetFile(j.SubnetFile); err != nil {
			return config{}, err
		}
	}
	c, err := j.config(env, subnets)
	if err != nil {
		return config{}, types.NewError(types.ErrInvalidNetworkConfig, oneLine(err), "")
	}
	return c, nil
}

// unsupported refuses the keys of the bridge plugin that this one lacks: a pod without what was asked for would be worse than none.
func unsupported(j confJSON) error {
	var found []string
	for _, k := range []struct {
		key   string
		value json.RawMessage
	}{
		{"vlan", j.VLAN}, {"vlanTrunk", j.VLANTrunk}, {"macspoofchk", j.MACSpoofCheck}, {"promiscMode", j.PromiscMode},
		{"portIsolation", j.PortIsolation}, {"disableContainerInterface", j.DisableContainerInterface}, {"enabledad", j.EnableDAD},
	} {
		if !isZeroJSON(k.value) {
			found = append(found, fmt.Sprintf("%s: %s", k.key, k.value))
		}
	}
	if t := j.IPAM.Type; t != "" && t != "host-local" {
		found = append(found, fmt.Sprintf("ipam.type: %q (want host-local or none: addresses are allocated in process)", t))
	}
	if len(found) == 0 {
		return nil
	}
	return types.NewError(types.ErrUnsupportedField, "unsupported field in the network configuration: "+strings.Join(found, "; "), "")
}

func readSubnetFile(path string) (subnetenv.Env, error) {
	if !filepath.IsAbs(path) {
		return subnetenv.Env{}, types.NewError(types.ErrInvalidNetworkConfig, fmt.Sprintf("subnetFile %q: want an absolute path", path), "")
	}
	env, err := subnetenv.Read(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return env, types.NewError(types.ErrTryAgainLater, fmt.Sprintf("subnetFile %s: does not exist yet", path),
			"the node agent (podnet-agent) writes it once the node has a podCIDR: is it running on this node?")
	case err != nil:
		return env, types.NewError(types.ErrTryAgainLater, "subnetFile: "+oneLine(err), "the node agent (podnet-agent) writes it")
	}
	return env, nil
}

// config validates what was decoded.
func (j confJSON) config(env envArgs, subnets subnetenv.Env) (config, error) {
	c := config{
		name: j.Name, dataDir: filepath.Clean(j.IPAM.DataDir), bridge: j.Bridge, gateway: j.IsGateway, forceAddress: j.ForceAddress,
		mtu: j.MTU, hairpin: j.HairpinMode, masqBackend: j.IPMasqBackend, dns: j.DNS, prevResult: j.PrevResult,
		attachments: append(j.ValidAttachments, j.Attachments...),
	}
	fromFile := len(subnets.Subnets) > 0
	if fromFile {
		c.gateway = true
		if c.mtu == 0 {
			c.mtu = subnets.MTU
		}
	}
	c.defaultGateway = boolOr(j.IsDefaultGateway, fromFile)
	c.gateway = c.gateway || c.defaultGateway
	c.masq = boolOr(j.IPMasq, fromFile && !subnets.IPMasq)
	c.networks = subnets.Networks

	var faults []error
	check := func(err error) { faults = append(faults, err) }
	if err := validIfName(c.bridge); err != nil {
		check(fmt.Errorf("bridge %w", err))
	}
	if !slices.Contains([]string{"", "nftables", "iptables"}, c.masqBackend) {
		check(fmt.Errorf("ipMasqBackend %q: want nftables, iptables or none", c.masqBackend))
	}
	var err error
	c.mac, err = j.requestedMAC(env)
	check(err)
	for i, s := range j.NonMasqueradeCIDRs {
		p, err := parseCIDR(fmt.Sprintf("nonMasqueradeCIDRs[%d]", i), s)
		check(err)
		c.nonMasquerade = append(c.nonMasquerade, p)
	}
	c.rangeSets, err = j.rangeSets(subnets)
	check(err)
	if err == nil {
		check(assignRequests(c.rangeSets, j.requestedIPs(env, check)))
		check(c.checkFamilies(j.CNIVersion))
	}
	c.routes, err = j.IPAM.routes(subnets, c.rangeSets)
	check(err)
	if j.IPAM.ResolvConf != "" && j.DNS.IsEmpty() {
		c.dns, err = readResolvConf(j.IPAM.ResolvConf)
		check(err)
	}
	if err := errors.Join(faults...); err != nil {
		return config{}, err
	}
	return c, nil
}

// requestedMAC follows the precedence of the bridge plugin: CNI_ARGS, then args.cni.mac, then runtimeConfig.mac.
func (j confJSON) requestedMAC(env envArgs) (rtnl.MAC, error) {
	mac := env.mac
	var faults []error
	for _, from := range []struct{ key, value string }{{"args.cni.mac", j.Args.CNI.MAC}, {"runtimeConfig.mac", j.RuntimeConfig.MAC}} {
		if from.value == "" {
			continue
		}
		m, err := parseMAC(from.value)
		if err != nil {
			faults = append(faults, fmt.Errorf("%s: %w", from.key, err))
		}
		mac = m
	}
	return mac, errors.Join(faults...)
}

// requestedIPs collects the addresses that this call asks for.
func (j confJSON) requestedIPs(env envArgs, check func(error)) []netip.Addr {
	var ips []netip.Addr
	if env.ip.IsValid() {
		ips = append(ips, env.ip)
	}
	for _, from := range []struct {
		key    string
		values []string
	}{{"args.cni.ips", j.Args.CNI.IPs}, {"runtimeConfig.ips", j.RuntimeConfig.IPs}} {
		for i, s := range from.values {
			ip, err := parseIP(s)
			if err != nil {
				check(fmt.Errorf("%s[%d]: %w", from.key, i, err))
				continue
			}
			if !slices.Contains(ips, ip) {
				ips = append(ips, ip)
			}
		}
	}
	return ips
}

// checkFamilies checks what depends on the families of the pod's addresses.
func (c config) checkFamilies(cniVersion string) error {
	var faults []error
	count := map[rtnl.Family]int{}
	for _, set := range c.rangeSets {
		count[rtnl.FamilyOf(set.ranges[0].subnet.Addr())]++
	}
	least := 576 // RFC 791: what every host must accept
	if count[rtnl.IPv6] > 0 {
		least = 1280 // RFC 8200: below it the kernel turns IPv6 off
	}
	if c.mtu != 0 && (c.mtu < least || c.mtu > 65535) {
		faults = append(faults, fmt.Errorf("mtu %d: want 0 (the kernel's default) or %d to 65535", c.mtu, least))
	}
	if old := slices.Contains([]string{"", "0.1.0", "0.2.0"}, cniVersion); old && (count[rtnl.IPv4] > 1 || count[rtnl.IPv6] > 1) {
		faults = append(faults, fmt.Errorf("ipam.ranges: more than one address per family: want cniVersion 0.3.0 or later, not %q", cniVersion))
	}
	return errors.Join(faults...)
}

func boolOr(b *bool, otherwise bool) bool {
	if b != nil {
		return *b
	}
	return otherwise
}

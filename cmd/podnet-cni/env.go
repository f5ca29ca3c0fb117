package main

import (
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"

	"github.com/podnet/podnet/rtnl"
)

// Longest names. The specification bounds none of them; the kernel bounds interfaces, a file name 255 bytes.
const (
	maxContainerID = 128
	maxNetworkName = 64
	maxIfName      = 15
)

// envVars are the variables of the protocol and the verbs that must have them, in the order in which faults are reported.
var envVars = []struct {
	name     string
	required []string
	field    func(*skel.CmdArgs) *string
	valid    func(string) error
}{
	{"CNI_CONTAINERID", []string{"ADD", "DEL", "CHECK"}, func(a *skel.CmdArgs) *string { return &a.ContainerID }, validContainerID},
	{"CNI_NETNS", []string{"ADD", "CHECK"}, func(a *skel.CmdArgs) *string { return &a.Netns }, validNetns},
	{"CNI_IFNAME", []string{"ADD", "DEL", "CHECK"}, func(a *skel.CmdArgs) *string { return &a.IfName }, validIfName},
	{"CNI_ARGS", nil, func(a *skel.CmdArgs) *string { return &a.Args }, nil},
	{"CNI_PATH", []string{"ADD", "DEL", "CHECK", "GC", "STATUS"}, func(a *skel.CmdArgs) *string { return &a.Path }, nil},
	{"CNI_NETNS_OVERRIDE", nil, func(a *skel.CmdArgs) *string { return &a.NetnsOverride }, nil},
}

// argsFromEnv reads the variables of the protocol and reports every fault among them.
func argsFromEnv(command string, getenv func(string) string) (*skel.CmdArgs, error) {
	var args skel.CmdArgs
	var missing []string
	var faults []error
	for _, v := range envVars {
		required := slices.Contains(v.required, command)
		value := getenv(v.name)
		*v.field(&args) = value
		switch {
		case value == "" && required:
			missing = append(missing, v.name)
		case value != "" && required && v.valid != nil:
			if err := v.valid(value); err != nil {
				faults = append(faults, fmt.Errorf("%s %w", v.name, err))
			}
		}
	}
	if !slices.Contains([]string{"ADD", "DEL", "CHECK", "GC", "STATUS"}, command) {
		faults = append(faults, fmt.Errorf("CNI_COMMAND %q: want ADD, DEL, CHECK, GC, STATUS or VERSION", command))
	}
	if len(missing) > 0 {
		faults = append(faults, fmt.Errorf("required env variables [%s] missing", strings.Join(missing, ",")))
	}
	if err := errors.Join(faults...); err != nil {
		return nil, types.NewError(types.ErrInvalidEnvironmentVariables, oneLine(err), "")
	}
	return &args, nil
}

// oneLine writes joined errors with semicolons: an error of CNI ends up in one line of an event or a log.
func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }

var name = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]*$`)

// validContainerID takes what the specification takes (section 2), as long as it is a sane file name.
func validContainerID(id string) error {
	switch {
	case len(id) > maxContainerID:
		return fmt.Errorf("%.16q...: %d bytes: want at most %d", id, len(id), maxContainerID)
	case !name.MatchString(id):
		return fmt.Errorf("%q: want a letter or digit, then letters, digits, '_', '.' and '-'", id)
	case strings.Contains(id, ".."):
		return fmt.Errorf("%q: must not hold \"..\"", id)
	}
	return nil
}

func validNetworkName(s string) error {
	switch {
	case s == "":
		return errors.New("name: missing network name")
	case len(s) > maxNetworkName:
		return fmt.Errorf("name %.16q...: %d bytes: want at most %d", s, len(s), maxNetworkName)
	case !name.MatchString(s):
		return fmt.Errorf("name %q: want a letter or digit, then letters, digits, '_', '.' and '-'", s)
	case strings.Contains(s, ".."):
		return fmt.Errorf("name %q: must not hold \"..\"", s)
	}
	return nil
}

// validIfName takes a subset of what the kernel takes: "eth%d" would become eth0 there, and ';' or a space break everyone's scripts.
func validIfName(s string) error {
	switch {
	case len(s) > maxIfName:
		return fmt.Errorf("%.32q: %d bytes: want at most %d", s, len(s), maxIfName)
	case s == "." || s == "..":
		return fmt.Errorf("%q: is not an interface name", s)
	}
	for _, c := range []byte(s) {
		if c <= ' ' || c > '~' || strings.IndexByte(`/:;%`, c) >= 0 {
			return fmt.Errorf("%q: must not hold %q: want printable ASCII without space, '/', ':', ';' and '%%'", s, string(c))
		}
	}
	return nil
}

func validNetns(path string) error {
	if path[0] != '/' || strings.ContainsAny(path, "\x00\n") {
		return fmt.Errorf("%q: want the absolute path of a network namespace", path)
	}
	return nil
}

// envArgs is what the plugin takes from CNI_ARGS.
type envArgs struct {
	mac rtnl.MAC
	ip  netip.Addr
}

// parseArgs reads CNI_ARGS ("KEY=VALUE;KEY=VALUE"). Keys that the plugin does not know are faults unless IgnoreUnknown says otherwise, as everywhere in CNI.
func parseArgs(s string) (envArgs, error) {
	var a envArgs
	var unknown []string
	var faults []error
	ignore := false
	for pair := range strings.SplitSeq(s, ";") {
		if pair == "" {
			continue
		}
		key, value, found := strings.Cut(pair, "=")
		var err error
		switch {
		case !found:
			err = fmt.Errorf("CNI_ARGS %q: want KEY=VALUE", pair)
		case key == "IgnoreUnknown":
			ignore, err = parseTruth(value)
		case key == "MAC":
			if a.mac, err = parseMAC(value); err != nil {
				err = fmt.Errorf("CNI_ARGS MAC: %w", err)
			}
		case key == "IP":
			if a.ip, err = parseIP(value); err != nil {
				err = fmt.Errorf("CNI_ARGS IP: %w", err)
			}
		default:
			unknown = append(unknown, pair)
		}
		faults = append(faults, err)
	}
	if len(unknown) > 0 && !ignore {
		faults = append(faults, fmt.Errorf("CNI_ARGS %q: want MAC, IP and IgnoreUnknown, or IgnoreUnknown=1", unknown))
	}
	if err := errors.Join(faults...); err != nil {
		return envArgs{}, types.NewError(types.ErrInvalidEnvironmentVariables, oneLine(err), "")
	}
	return a, nil
}

func parseTruth(s string) (bool, error) {
	switch strings.ToLower(s) {
	case "1", "true":
		return true, nil
	case "0", "false":
		return false, nil
	}
	return false, fmt.Errorf("CNI_ARGS IgnoreUnknown=%s: want 1, true, 0 or false", s)
}

// parseMAC refuses addresses that a station cannot have.
func parseMAC(s string) (rtnl.MAC, error) {
	mac, err := rtnl.ParseMAC(s)
	switch {
	case err != nil:
		return rtnl.MAC{}, err
	case mac.IsZero():
		return rtnl.MAC{}, fmt.Errorf("mac %q: must not be zero", s)
	case mac.IsMulticast():
		return rtnl.MAC{}, fmt.Errorf("mac %q: must not be a multicast address", s)
	}
	return mac, nil
}

// parseIP reads an address; a prefix length behind it is accepted and dropped, as host-local does: the range decides.
func parseIP(s string) (netip.Addr, error) {
	a, err := netip.ParseAddr(s)
	if p, perr := netip.ParsePrefix(s); perr == nil {
		a, err = p.Addr(), nil
	}
	if err != nil || a.Is4In6() || a.Zone() != "" {
		return netip.Addr{}, fmt.Errorf("ip %q: want an address such as 10.244.1.7 or fd00:244::7", s)
	}
	return a, nil
}

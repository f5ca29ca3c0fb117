package leftover

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// ipvsDevice is the device that has the addresses of Services in kube-proxy's ipvs mode.
const ipvsDevice = "kube-ipvs0"

// Find returns what there is of kube-proxy, one line each. It runs no program, and so does not see chains of iptables-legacy.
func Find(context.Context) []string {
	var found []string
	if tables, err := kubeTables(); err == nil {
		for _, t := range tables {
			found = append(found, "nftables table "+familyName(t.Family)+" "+t.Name)
		}
	}
	if _, err := netlink.LinkByName(ipvsDevice); err == nil {
		found = append(found, "device "+ipvsDevice)
	}
	for _, v := range variants() {
		if chain, table := v.chainInKernel(); chain != "" {
			found = append(found, "chain "+chain+" in table "+table+" of iptables-nft")
		}
	}
	return found
}

// Remove removes everything but the virtual servers that keep, if it is not nil, asks for, and returns what it removed, one line each.
func Remove(ctx context.Context, keep func(Server) bool) (removed []string, err error) {
	var faults []error
	do := func(what string, f func(context.Context) ([]string, error)) {
		done, err := f(ctx)
		removed = append(removed, done...)
		if err != nil {
			faults = append(faults, fmt.Errorf("%s: %w", what, err))
		}
	}
	ipvs := identify() // before the sets that tell are gone
	if keep != nil {
		ipvs.keep = keep
	}
	do("nftables", removeTables)
	for _, v := range variants() {
		do(v.name, v.remove)
	}
	do("IPVS", ipvs.remove)
	do("device "+ipvsDevice, removeDevice)
	do("ipset", removeSets)
	return removed, errors.Join(faults...)
}

// Virtual returns which IPVS virtual servers are kube-proxy's at this moment.
func Virtual() func(Server) bool { return identify().kubes }

func kubeTables() ([]*nftables.Table, error) {
	conn, err := nftables.New()
	if err != nil {
		return nil, err
	}
	all, err := conn.ListTables()
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(all, func(t *nftables.Table) bool {
		return t.Name != "kube-proxy" || t.Family != nftables.TableFamilyIPv4 && t.Family != nftables.TableFamilyIPv6
	}), nil
}

func familyName(f nftables.TableFamily) string {
	if f == nftables.TableFamilyIPv6 {
		return "ip6"
	}
	return "ip"
}

func removeTables(context.Context) (removed []string, err error) {
	tables, err := kubeTables()
	if absent(err) || len(tables) == 0 {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	conn, err := nftables.New()
	if err != nil {
		return nil, err
	}
	for _, t := range tables {
		conn.DelTable(t)
		removed = append(removed, "nftables table "+familyName(t.Family)+" "+t.Name)
	}
	if err := conn.Flush(); err != nil {
		return nil, err
	}
	return removed, nil
}

// absent reports whether the kernel has no such subsystem at all.
func absent(err error) bool {
	return errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.EINVAL)
}

// variant is one iptables: a kernel interface and a family.
type variant struct {
	name           string // of the save program
	restoreProgram string
	tables         string // file with the names of the tables that the kernel has; "" for nft
}

func variants() []variant {
	return []variant{
		{"iptables-nft-save", "iptables-nft-restore", ""},
		{"ip6tables-nft-save", "ip6tables-nft-restore", ""},
		{"iptables-legacy-save", "iptables-legacy-restore", "/proc/net/ip_tables_names"},
		{"ip6tables-legacy-save", "ip6tables-legacy-restore", "/proc/net/ip6_tables_names"},
	}
}

var errNotInstalled = errors.New("is not installed")

// save runs the save program. A legacy iptables that the kernel has no tables of is not asked: that would load modules.
func (v variant) save(ctx context.Context) (string, error) {
	if v.tables != "" {
		if names, err := os.ReadFile(v.tables); err != nil || len(bytes.TrimSpace(names)) == 0 {
			return "", nil
		}
	}
	return v.run(ctx, v.name, "")
}

// run runs one program with nothing of ours in its environment.
func (v variant) run(ctx context.Context, program, input string, args ...string) (string, error) {
	path, err := exec.LookPath(program)
	if err != nil {
		return "", fmt.Errorf("%s %w", program, errNotInstalled)
	}
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C"}
	cmd.Stdin = strings.NewReader(input)
	var out, fault bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &fault
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s: %w: %s", program, err, bytes.TrimSpace(fault.Bytes()))
	}
	return out.String(), nil
}

func (v variant) remove(ctx context.Context) ([]string, error) {
	save, err := v.save(ctx)
	if errors.Is(err, errNotInstalled) {
		return nil, v.unreachable()
	} else if err != nil {
		return nil, err
	}
	input, chains := restore(parseSave(save))
	if chains == 0 {
		return nil, nil
	}
	args := []string{"--noflush"}
	if v.tables != "" {
		args = append(args, "--wait", "30") // for the lock of other legacy programs
	}
	if _, err := v.run(ctx, v.restoreProgram, input, args...); err != nil {
		return nil, err
	}
	return []string{fmt.Sprintf("%d chains of %s", chains, strings.TrimSuffix(v.name, "-save"))}, nil
}

// unreachable is an error if the kernel has chains of kube-proxy for which there is no program.
func (v variant) unreachable() error {
	if v.tables != "" {
		if names, err := os.ReadFile(v.tables); err == nil && len(bytes.TrimSpace(names)) > 0 {
			return fmt.Errorf("the kernel has tables of iptables-legacy (%s), and %s %w: install it to have kube-proxy's chains in them removed, if there are any",
				strings.Join(strings.Fields(string(names)), ", "), v.name, errNotInstalled)
		}
		return nil
	}
	if chain, table := v.chainInKernel(); chain != "" {
		return fmt.Errorf("table %s has kube-proxy's chain %s, and %s %w: install it to have such chains removed", table, chain, v.name, errNotInstalled)
	}
	return nil
}

// chainInKernel returns a chain of kube-proxy that iptables-nft made, and its table.
func (v variant) chainInKernel() (chain, table string) {
	if v.tables != "" {
		return "", ""
	}
	family := nftables.TableFamilyIPv4
	if strings.HasPrefix(v.name, "ip6") {
		family = nftables.TableFamilyIPv6
	}
	conn, err := nftables.New()
	if err != nil {
		return "", ""
	}
	chains, err := conn.ListChainsOfTableFamily(family)
	if err != nil {
		return "", ""
	}
	for _, c := range chains {
		if c.Table.Name != "kube-proxy" && kubeChain(c.Name) {
			return c.Name, familyName(family) + " " + c.Table.Name
		}
	}
	return "", ""
}

func removeDevice(context.Context) ([]string, error) {
	link, err := netlink.LinkByName(ipvsDevice)
	if err != nil {
		return nil, nil // there is none
	}
	if err := netlink.LinkDel(link); err != nil {
		return nil, err
	}
	return []string{"device " + ipvsDevice}, nil
}

func removeSets(context.Context) (removed []string, err error) {
	sets, err := netlink.IpsetListAll()
	if err != nil {
		return nil, nil // no ipset in this kernel, or none in use
	}
	var faults []error
	n := 0
	for _, s := range sets {
		if !slices.Contains(setNames(), s.SetName) {
			continue
		}
		if err := netlink.IpsetDestroy(s.SetName); err != nil {
			faults = append(faults, fmt.Errorf("%s: %w", s.SetName, err))
			continue
		}
		n++
	}
	if n > 0 {
		removed = append(removed, fmt.Sprintf("%d ipsets", n))
	}
	return removed, errors.Join(faults...)
}

package takeover

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/podnet/podnet/ipam"
)

// PlanExport reads what Export would hand to host-local. done says that the store is closed already.
func (l Leases) PlanExport(ctx context.Context) (r Report, done bool, err error) {
	dir, err := l.exported()
	if err != nil || dir == "" {
		return Report{}, err == nil, err
	}
	if _, err := os.Stat(filepath.Join(dir, "leases")); errors.Is(err, fs.ErrNotExist) {
		return Report{}, false, nil
	}
	records, err := recordsIn(ctx, dir, nil)
	return report(records), false, err
}

// exported returns the directory that still has to be handed over; "" if there is none.
func (l Leases) exported() (string, error) {
	store, err := stateOf(l.Store)
	if err != nil {
		return "", err
	}
	host, err := stateOf(l.HostLocal)
	switch {
	case err != nil:
		return "", err
	case host == open:
		return "", nil // host-local works there already
	case store == fenced:
		return l.Store + fencedAway, nil // closed, but not handed over yet
	}
	return l.Store, nil
}

// Export hands the leases of podnet-cni to host-local, and closes the store. podnet-cni must not be configured any more; what it still does fails. For flannel's
// plugin to release them, each container gets a file in flannelDir, as if that plugin had attached it.
func (l Leases) Export(ctx context.Context, flannelDir string, conf func(ipam.Owner) []byte) (Report, error) {
	dir, err := l.exported()
	if err != nil || dir == "" {
		return Report{}, err
	}
	var records []ipam.Record
	if dir == l.Store {
		records, err = recordsIn(ctx, dir, func() error { return fence(l.Store, l.HostLocal) })
	} else {
		records, err = recordsIn(ctx, dir, nil)
	}
	if err != nil {
		return Report{}, fmt.Errorf("hand over leases: %w", err)
	}
	r := report(records)
	fresh := l.HostLocal + ".new"
	if err := errors.Join(os.RemoveAll(fresh), os.MkdirAll(fresh, 0o755)); err != nil {
		return r, err
	}
	last := map[string]ipam.Record{}
	for _, rec := range records {
		if !rec.Released.IsZero() || strings.HasPrefix(rec.Owner.ContainerID, unreadable) {
			continue
		}
		for set, p := range rec.Addrs {
			text := rec.Owner.ContainerID + "\r\n" + rec.Owner.Ifname
			if err := writeFile(filepath.Join(fresh, p.Addr().String()), text, 0o600); err != nil {
				return r, fmt.Errorf("hand over leases: %w", err)
			}
			if name := "last_reserved_ip." + strconv.Itoa(set); !rec.Static && rec.Seq >= last[name].Seq {
				last[name] = rec
			}
		}
		if err := writeContainer(flannelDir, rec.Owner, conf); err != nil {
			return r, fmt.Errorf("hand over leases: %w", err)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(last)) {
		set := int(name[len(name)-1] - '0')
		if err := writeFile(filepath.Join(fresh, name), last[name].Addrs[set].Addr().String(), 0o600); err != nil {
			return r, fmt.Errorf("hand over leases: %w", err)
		}
	}
	if err := syncDir(fresh); err != nil {
		return r, err
	}
	return r, reopen(l.HostLocal, fresh)
}

// writeContainer writes what flannel's plugin would have kept of a container. One that is there stays: flannel attached that container.
func writeContainer(dir string, o ipam.Owner, conf func(ipam.Owner) []byte) error {
	if conf == nil {
		return nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	err := writeFile(filepath.Join(dir, o.ContainerID), string(conf(o)), 0o600)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	return err
}

// Delegated returns what flannel's plugin makes of its configuration for the bridge plugin, and keeps for the container's DEL.
func (l List) Delegated(networks, subnets []netip.Prefix, mtu int, ipMasq bool) []byte {
	conf := map[string]any{"hairpinMode": true, "isDefaultGateway": true}
	maps.Copy(conf, l.Delegate)
	ranges := [][]map[string]string{}
	for _, s := range subnets {
		ranges = append(ranges, []map[string]string{{"subnet": s.Masked().String()}})
	}
	routes := []map[string]string{}
	for _, n := range networks {
		routes = append(routes, map[string]string{"dst": n.String()})
	}
	ipam := map[string]any{"type": "host-local", "ranges": ranges, "routes": routes}
	if l.DataDir != DefaultDataDir {
		ipam["dataDir"] = l.DataDir
	}
	version := l.CNIVersion
	if version == "" {
		version = "0.3.1"
	}
	maps.Copy(conf, map[string]any{"name": l.Network, "cniVersion": version, "type": cmp.Or(asString(conf["type"]), "bridge"),
		"mtu": mtu, "ipMasq": !ipMasq, "isGateway": true, "ipam": ipam})
	text, err := json.Marshal(conf)
	if err != nil {
		panic(err) // it came from JSON
	}
	return text
}

func asString(v any) string {
	s, _ := v.(string)
	return s
}

package takeover

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/podnet/podnet/ipam"
	"github.com/podnet/podnet/ipam/filestore"
)

const lockWait = 30 * time.Second

// unreadable begins the container ID under which an address is kept whose holder cannot be read. GC, with which the runtime names all containers that
// live, and the next boot of the node free it.
const unreadable = "unreadable-"

// Leases moves the leases of a network between host-local and the store of podnet-cni.
type Leases struct {
	HostLocal string         // directory of host-local's network
	Store     string         // directory of podnet-cni's network
	Subnets   []netip.Prefix // this node's podCIDRs, in the order of the range sets
	// InUse says that pods are attached to the bridge: then there have to be leases somewhere.
	InUse bool
	// Shared says that podnet-cni is configured already and may have handed out addresses of its own: those stay.
	Shared bool
}

// Report is what was moved, or would be.
type Report struct {
	Leases   []Lease  // all that were found
	Changed  int      // records written, or files
	Problems []string // what could not be read, and what contradicts
}

// Lease is an owner with its addresses.
type Lease struct {
	Owner ipam.Owner
	Addrs []netip.Addr
}

// String returns the lease on one line.
func (l Lease) String() string {
	words := make([]string, len(l.Addrs))
	for i, a := range l.Addrs {
		words[i] = a.String()
	}
	id := l.Owner.ContainerID
	if len(id) > 13 && !strings.HasPrefix(id, unreadable) {
		id = id[:13]
	}
	return strings.Join(words, " ") + " " + id + "/" + l.Owner.Ifname
}

// hostLocal is what host-local knows.
type hostLocal struct {
	leases   []Lease
	last     map[int]netip.Addr // where round robin of a range set goes on
	problems []string
}

// readHostLocal reads a directory of host-local. A file whose holder cannot be read (cut off by a crash: host-local does not sync) still keeps its address
// from being handed out again.
func readHostLocal(dir string) (h hostLocal, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return h, fmt.Errorf("read leases: %w", err)
	}
	owners := map[ipam.Owner][]netip.Addr{}
	h.last = map[int]netip.Addr{}
	for _, e := range entries {
		name := e.Name()
		text, rerr := os.ReadFile(filepath.Join(dir, name))
		if set, ok := strings.CutPrefix(name, "last_reserved_ip."); ok {
			if a, err := netip.ParseAddr(strings.TrimSpace(string(text))); err == nil && len(set) == 1 && set[0] >= '0' && set[0] <= '9' {
				h.last[int(set[0]-'0')] = a
			}
			continue
		}
		a, err := netip.ParseAddr(name)
		if err != nil || a.Zone() != "" || a.Is4In6() {
			if name != "lock" {
				h.problems = append(h.problems, fmt.Sprintf("%s: no lease of host-local: left where it is", filepath.Join(dir, name)))
			}
			continue
		}
		o := ownerIn(text)
		if rerr != nil || o.Validate() != nil {
			o = ipam.Owner{ContainerID: unreadable + strings.ReplaceAll(a.StringExpanded(), ":", "-"), Ifname: "eth0"}
			h.problems = append(h.problems, fmt.Sprintf("%s: %d bytes that name no container: the address is kept out of use until GC or the next boot", filepath.Join(dir, name), len(text)))
		}
		owners[o] = append(owners[o], a)
	}
	for o, addrs := range owners {
		slices.SortFunc(addrs, func(a, b netip.Addr) int { return cmp.Or(cmp.Compare(a.BitLen(), b.BitLen()), a.Compare(b)) })
		for part := range slices.Chunk(addrs, ipam.MaxRangeSets) {
			if len(addrs) > ipam.MaxRangeSets && &part[0] != &addrs[0] {
				h.problems = append(h.problems, fmt.Sprintf("%s: more than %d addresses: %v are kept out of use until GC or the next boot", o, ipam.MaxRangeSets, part))
				o = ipam.Owner{ContainerID: unreadable + strings.ReplaceAll(part[0].StringExpanded(), ":", "-"), Ifname: "eth0"}
			}
			h.leases = append(h.leases, Lease{o, part})
		}
	}
	slices.SortFunc(h.leases, func(a, b Lease) int { return a.Addrs[0].Compare(b.Addrs[0]) })
	slices.Sort(h.problems)
	return h, nil
}

// ownerIn reads the content of a lease file: container ID and interface on two lines. Before host-local 0.8 (2019) there was no interface.
func ownerIn(text []byte) ipam.Owner {
	id, ifname, _ := bytes.Cut(bytes.TrimSpace(text), []byte("\n"))
	o := ipam.Owner{ContainerID: string(bytes.TrimSpace(id)), Ifname: string(bytes.TrimSpace(ifname))}
	if o.Ifname == "" {
		o.Ifname = "eth0"
	}
	return o
}

// PlanImport reads what Import would take over. It changes nothing, takes no lock, and done says that host-local's directory is closed already.
func (l Leases) PlanImport() (r Report, done bool, err error) {
	st, err := stateOf(l.HostLocal)
	if err != nil || st != open {
		return Report{}, st == fenced, errors.Join(err, l.missing(st))
	}
	h, err := readHostLocal(l.HostLocal)
	return Report{Leases: h.leases, Changed: len(h.leases), Problems: h.problems}, false, err
}

func (l Leases) missing(st state) error {
	if st != missing || !l.InUse {
		return nil
	}
	return fmt.Errorf("%s: no leases of host-local, though pods are attached to the bridge: is the directory mounted here? Pods' addresses would be handed out twice", l.HostLocal)
}

// Import takes host-local's leases over into the store of podnet-cni, and closes host-local's directory. podnet-cni must not be configured yet.
//
// It holds host-local's lock from before the first look until the directory is closed, and the records are on the disk before that. So an address that
// host-local hands out is either taken over, or it was never handed out.
func (l Leases) Import(ctx context.Context) (Report, error) {
	st, err := stateOf(l.HostLocal)
	if err := errors.Join(err, l.missing(st)); err != nil {
		return Report{}, err
	}
	switch st {
	case fenced:
		return Report{}, nil
	case missing:
		return Report{}, errors.Join(l.openStore(), fence(l.HostLocal, l.Store))
	}
	unlock, err := lockDir(ctx, filepath.Join(l.HostLocal, "lock"), lockWait)
	if err != nil {
		return Report{}, err
	}
	defer unlock()
	h, err := readHostLocal(l.HostLocal)
	if err != nil {
		return Report{}, err
	}
	if err := l.openStore(); err != nil {
		return Report{}, err
	}
	store, err := filestore.Open(l.Store, filestore.Options{})
	if err != nil {
		return Report{}, err
	}
	defer store.Close()
	r := Report{Leases: h.leases, Problems: h.problems}
	err = store.Update(ctx, func(tx ipam.Tx) (err error) {
		r.Changed, err = l.enter(tx, h, &r)
		return err
	})
	if err != nil {
		return r, fmt.Errorf("take over leases: %w", err)
	}
	return r, fence(l.HostLocal, l.Store)
}

// openStore removes a fence from the store: what it holds was handed to host-local.
func (l Leases) openStore() error {
	st, err := stateOf(l.Store)
	if err != nil || st != fenced {
		return err
	}
	return errors.Join(os.RemoveAll(l.Store+fencedAway), os.Remove(l.Store))
}

// enter makes the held records of the store those of host-local: if nobody else has allocated from these podCIDRs so far, exactly those.
func (l Leases) enter(tx ipam.Tx, h hostLocal, report *Report) (changed int, err error) {
	type held struct {
		slot   int
		record ipam.Record
	}
	have := map[ipam.Owner]held{}
	var others []held
	var seq uint64
	holders := map[netip.Addr]ipam.Owner{}
	err = tx.Records(func(slot int, r ipam.Record) {
		seq = max(seq, r.Seq)
		if !r.Released.IsZero() {
			return
		}
		for _, p := range r.Addrs {
			holders[p.Addr()] = r.Owner
		}
		if _, twice := have[r.Owner]; twice {
			others = append(others, held{slot, r})
			return
		}
		have[r.Owner] = held{slot, r}
	})
	if err != nil {
		return 0, err
	}
	put := func(slot int, r ipam.Record) error {
		changed++
		_, err := tx.Put(slot, r)
		return err
	}
	leases := slices.Clone(h.leases)
	last := map[netip.Addr]bool{}
	for _, a := range h.last {
		last[a] = true
	}
	slices.SortStableFunc(leases, func(a, b Lease) int { // round robin goes on where host-local stood
		return cmp.Compare(boolInt(last[a.Addrs[0]]), boolInt(last[b.Addrs[0]]))
	})
	for _, lease := range leases {
		want := ipam.Record{Owner: lease.Owner, Addrs: l.prefixes(lease.Addrs)}
		old, ok := have[lease.Owner]
		delete(have, lease.Owner)
		if ok && slices.Equal(old.record.Addrs, want.Addrs) {
			continue
		}
		if !ok {
			old.slot = -1
		}
		if i := slices.IndexFunc(lease.Addrs, func(a netip.Addr) bool { o, taken := holders[a]; return l.Shared && taken && o != lease.Owner }); i >= 0 {
			report.Problems = append(report.Problems, fmt.Sprintf("%s: podnet gave %s to %s: one of the two pods has to be made anew", lease, lease.Addrs[i], holders[lease.Addrs[i]]))
			continue
		}
		seq++
		want.Seq = seq
		if err := put(old.slot, want); err != nil {
			return changed, err
		}
	}
	if l.Shared {
		return changed, nil
	}
	for _, o := range have {
		others = append(others, o)
	}
	for _, o := range others { // of a run that was cut short, and released by host-local since
		o.record.Released = time.Now()
		if err := put(o.slot, o.record); err != nil {
			return changed, err
		}
	}
	return changed, nil
}

func boolInt(b bool) int {
	if b {
		return 1
	}
	return 0
}

// prefixes orders addresses as the range sets are, with the lengths of the subnets.
func (l Leases) prefixes(addrs []netip.Addr) []netip.Prefix {
	rank := func(a netip.Addr) int {
		i := slices.IndexFunc(l.Subnets, func(s netip.Prefix) bool { return s.Contains(a) })
		if i < 0 {
			return len(l.Subnets)
		}
		return i
	}
	addrs = slices.Clone(addrs)
	slices.SortStableFunc(addrs, func(a, b netip.Addr) int { return cmp.Compare(rank(a), rank(b)) })
	out := make([]netip.Prefix, len(addrs))
	for i, a := range addrs {
		bits := a.BitLen()
		if at := rank(a); at < len(l.Subnets) {
			bits = l.Subnets[at].Bits()
		}
		out[i] = netip.PrefixFrom(a, bits)
	}
	return out
}

// recordsIn reads a store, and calls then before anybody else can use it.
func recordsIn(ctx context.Context, dir string, then func() error) (records []ipam.Record, err error) {
	store, err := filestore.Open(dir, filestore.Options{})
	if err != nil {
		return nil, err
	}
	defer store.Close()
	err = store.Update(ctx, func(tx ipam.Tx) error {
		if err := tx.Records(func(_ int, r ipam.Record) { records = append(records, r) }); err != nil || then == nil {
			return err
		}
		return then()
	})
	slices.SortFunc(records, func(a, b ipam.Record) int { return cmp.Compare(a.Seq, b.Seq) })
	return records, err
}

func report(records []ipam.Record) (r Report) {
	for _, rec := range records {
		if !rec.Released.IsZero() {
			continue
		}
		if strings.HasPrefix(rec.Owner.ContainerID, unreadable) {
			r.Problems = append(r.Problems, fmt.Sprintf("%v: nobody knows its holder: not handed over", rec.Addrs))
			continue
		}
		lease := Lease{Owner: rec.Owner}
		for _, p := range rec.Addrs {
			lease.Addrs = append(lease.Addrs, p.Addr())
		}
		r.Leases = append(r.Leases, lease)
	}
	r.Changed = len(r.Leases)
	slices.SortFunc(r.Leases, func(a, b Lease) int { return a.Addrs[0].Compare(b.Addrs[0]) })
	return r
}

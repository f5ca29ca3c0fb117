// Package handoff writes the files that the agent hands to others: the node's subnet file for the CNI plugin, and the network
// configuration list (conflist) for the container runtime.
//
// What it does: [Files.Apply] writes the subnet file, then the conflist, each only if its content differs. The conflist comes last: a runtime that sees it
// may start pods at once. [Files.Remove] removes both.
//
// What it owns: files whose content it wrote, as recorded (SHA-256 by path) in its record file. A file that was written under another path
// before (a flag changed) is removed once the new one stands.
//
// What it never touches: a file whose content it did not write, except those at the two paths that it is told to write.
//
// Failure: each file is a temporary file in the same directory, made durable, renamed, and the directory made durable: a reader or a
// power cut sees the old or the new file. The record is written before the file that it tells of.
//
// Privileges: those of the files. Concurrency: one writer; the agent's lock sees to that.
package handoff

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"

	"github.com/podnet/podnet/internal/subnetenv"
)

// Files says where the files are.
type Files struct {
	SubnetFile string
	Conflist   string // "" = none is written
	Record     string // tells which files are ours
}

// Conflist is what the configuration list says.
type Conflist struct {
	Name       string
	SubnetFile string
	Bridge     string
	DataDir    string // of the leases; "" = the plugin's default
	// NonMasqueradeCIDRs are for a plugin that masquerades itself, since the agent does not.
	NonMasqueradeCIDRs []netip.Prefix
	Chained            []json.RawMessage // plugins behind podnet-cni, as they stand in a list
}

// JSON returns the list. cniVersion 1.0.0 is what every containerd and CRI-O in use reads (containerd 1.6 and 1.7 refuse results of 1.1.0);
// a libcni that knows the key cniVersions (1.2, in containerd 2) takes 1.1.0 from it, and with that GC and STATUS.
func (c Conflist) JSON() []byte {
	type ipam struct {
		Type    string `json:"type"`
		DataDir string `json:"dataDir"`
	}
	type plugin struct {
		Type             string         `json:"type"`
		Bridge           string         `json:"bridge"`
		IsDefaultGateway bool           `json:"isDefaultGateway"`
		HairpinMode      bool           `json:"hairpinMode"`
		SubnetFile       string         `json:"subnetFile"`
		NonMasquerade    []netip.Prefix `json:"nonMasqueradeCIDRs,omitempty"`
		IPAM             *ipam          `json:"ipam,omitempty"`
	}
	p := plugin{Type: "podnet-cni", Bridge: c.Bridge, IsDefaultGateway: true, HairpinMode: true, SubnetFile: c.SubnetFile, NonMasquerade: c.NonMasqueradeCIDRs}
	if c.DataDir != "" {
		p.IPAM = &ipam{Type: "host-local", DataDir: c.DataDir}
	}
	plugins := []any{p}
	for _, more := range c.Chained {
		plugins = append(plugins, more)
	}
	text, err := json.MarshalIndent(struct {
		CNIVersion  string   `json:"cniVersion"`
		CNIVersions []string `json:"cniVersions"`
		Name        string   `json:"name"`
		Plugins     []any    `json:"plugins"`
	}{"1.0.0", []string{"1.0.0", "1.1.0"}, c.Name, plugins}, "", "  ")
	if err != nil {
		panic(err) // strings, booleans, and what came from JSON
	}
	return append(text, '\n')
}

// Apply brings the files to what they should say, and returns the paths that it wrote or removed.
func (f Files) Apply(env subnetenv.Env, list Conflist) ([]string, error) {
	if err := env.Validate(); err != nil {
		return nil, fmt.Errorf("subnet file: %w", err)
	}
	// The conflist is for root only, as the CIS Kubernetes benchmark asks (1.1.9); everyone may read the subnet file.
	want := []content{{f.SubnetFile, []byte(env.String()), 0o644, 0o755}}
	if f.Conflist != "" {
		want = append(want, content{f.Conflist, list.JSON(), 0o600, 0o755})
	}
	var changed []string
	for _, c := range want {
		same, err := c.stands()
		if err != nil {
			return changed, err
		}
		if same {
			continue
		}
		if err := f.remember(c); err != nil {
			return changed, err
		}
		if err := c.write(); err != nil {
			return changed, err
		}
		changed = append(changed, c.path)
	}
	removed, err := f.removeOthers(want)
	return append(changed, removed...), err
}

// Stands reports whether a conflist is there: whoever reads it may have allocated addresses since.
func (f Files) Stands() bool {
	_, err := os.Lstat(f.Conflist)
	return f.Conflist != "" && err == nil
}

// Remove removes the files that stand as they were written, and returns their paths.
func (f Files) Remove() ([]string, error) {
	removed, err := f.removeOthers(nil)
	if err != nil {
		return removed, err
	}
	return removed, removeIfThere(f.Record)
}

// record maps a path to the SHA-256 of what was last written there.
type record map[string]string

func (f Files) recorded() (record, error) {
	text, err := os.ReadFile(f.Record)
	if errors.Is(err, fs.ErrNotExist) {
		return record{}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read record of written files: %w", err)
	}
	r := record{}
	if json.Unmarshal(text, &r) != nil {
		return record{}, nil // not ours any more: forget, never guess
	}
	return r, nil
}

func (f Files) remember(c content) error {
	r, err := f.recorded()
	if err != nil {
		return err
	}
	if r[c.path] == c.hash() {
		return nil
	}
	r[c.path] = c.hash()
	return f.save(r)
}

func (f Files) save(r record) error {
	text, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return content{f.Record, append(text, '\n'), 0o600, 0o700}.write()
}

// removeOthers removes recorded files that are not wanted, conflists first, and forgets them.
func (f Files) removeOthers(want []content) ([]string, error) {
	r, err := f.recorded()
	if err != nil {
		return nil, err
	}
	var removed []string
	forgotten := false
	paths := slices.Collect(maps.Keys(r))
	slices.SortFunc(paths, func(a, b string) int {
		aList, bList := filepath.Ext(a) == ".conflist", filepath.Ext(b) == ".conflist"
		if aList != bList && aList {
			return -1
		}
		if aList != bList {
			return 1
		}
		return bytes.Compare([]byte(a), []byte(b))
	})
	for _, path := range paths {
		if slices.ContainsFunc(want, func(c content) bool { return c.path == path }) {
			continue
		}
		text, err := os.ReadFile(path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return removed, err
		}
		if err == nil && (content{data: text}).hash() == r[path] {
			if err := os.Remove(path); err != nil {
				return removed, err
			}
			removed = append(removed, path)
		}
		delete(r, path)
		forgotten = true
	}
	if forgotten && (want != nil || len(r) > 0) {
		return removed, f.save(r)
	}
	return removed, nil
}

// content is a file as it should be.
type content struct {
	path    string
	data    []byte
	mode    fs.FileMode
	dirMode fs.FileMode // if the directory has to be made
}

func (c content) hash() string {
	sum := sha256.Sum256(c.data)
	return hex.EncodeToString(sum[:])
}

// stands reports whether the file is there as it should be.
func (c content) stands() (bool, error) {
	info, err := os.Lstat(c.path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if info.IsDir() {
		return false, fmt.Errorf("%s: is a directory: want a file", c.path)
	}
	if !info.Mode().IsRegular() || info.Mode().Perm() != c.mode || info.Size() != int64(len(c.data)) {
		return false, nil
	}
	data, err := os.ReadFile(c.path)
	return err == nil && bytes.Equal(data, c.data), err
}

// write replaces the file atomically and durably. A symbolic link at the path is replaced, never followed. The temporary file has a fixed
// name, so that a killed agent leaves at most one; readers of a CNI directory take files by extension, so it must not end in .conf,
// .conflist or .json.
func (c content) write() error {
	dir, base := filepath.Split(c.path)
	if err := os.MkdirAll(dir, c.dirMode); err != nil {
		return err
	}
	temp := filepath.Join(dir, "."+base+".podnet-tmp")
	if err := c.writeAndRename(temp); err != nil {
		return errors.Join(fmt.Errorf("write %s: %w", c.path, err), removeIfThere(temp))
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func (c content) writeAndRename(temp string) error {
	if err := removeIfThere(temp); err != nil {
		return err
	}
	t, err := os.OpenFile(temp, os.O_CREATE|os.O_EXCL|os.O_WRONLY, c.mode)
	if err != nil {
		return err
	}
	_, err = t.Write(c.data)
	if err = errors.Join(err, t.Chmod(c.mode), t.Sync(), t.Close()); err != nil {
		return err
	}
	return os.Rename(temp, c.path)
}

func removeIfThere(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

package takeover

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Aside ends the name of a configuration list of flannel that was set aside. Runtimes read *.conflist, *.conf and *.json only.
const Aside = ".before-podnet"

// DefaultDataDir is where host-local keeps its leases unless the list says otherwise, one directory for each network.
const DefaultDataDir = "/var/lib/cni/networks"

// DefaultFlannelDir is where flannel's plugin keeps what it made of each container's configuration.
const DefaultFlannelDir = "/var/lib/cni/flannel"

// List is flannel's configuration list.
type List struct {
	Path       string
	Aside      bool // it was set aside
	Network    string
	DataDir    string // of host-local
	FlannelDir string
	Delegate   map[string]any
	CNIVersion string
	Chained    []json.RawMessage // the plugins after flannel's, such as portmap
}

// Leases returns the directory of the network's leases.
func (l List) Leases() string { return filepath.Join(l.DataDir, l.Network) }

// FindLists returns flannel's lists in a directory, also those that were set aside, in the order of their names.
func FindLists(dir string) ([]List, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look for flannel's configuration: %w", err)
	}
	var out []List
	for _, e := range entries {
		name, aside := strings.CutSuffix(e.Name(), Aside)
		if !slices.Contains([]string{".conflist", ".conf", ".json"}, filepath.Ext(name)) || e.Type()&fs.ModeType != 0 {
			continue
		}
		text, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return nil, fmt.Errorf("look for flannel's configuration: %w", err)
		}
		if l, ok := ParseList(text); ok {
			l.Path, l.Aside = filepath.Join(dir, name), aside
			out = append(out, l)
		}
	}
	return out, nil
}

// ParseList reads a list, or a single plugin as old flannels were configured. ok is false if flannel has no part in it.
func ParseList(text []byte) (List, bool) {
	type ipam struct{ DataDir string }
	type plugin struct {
		Type, DataDir string
		Delegate      map[string]any
		IPAM          ipam
	}
	var conf struct {
		plugin
		Name, CNIVersion string
		Plugins          []plugin
	}
	var raw struct{ Plugins []json.RawMessage }
	if json.Unmarshal(text, &conf) != nil || json.Unmarshal(text, &raw) != nil || conf.Name == "" || conf.Name != filepath.Base(conf.Name) || strings.HasPrefix(conf.Name, ".") {
		return List{}, false
	}
	i := slices.IndexFunc(conf.Plugins, func(p plugin) bool { return p.Type == "flannel" })
	p := conf.plugin
	var chained []json.RawMessage
	if i >= 0 {
		p, chained = conf.Plugins[i], raw.Plugins[i+1:]
	}
	if p.Type != "flannel" {
		return List{}, false
	}
	l := List{Network: conf.Name, DataDir: p.IPAM.DataDir, FlannelDir: p.DataDir, Delegate: p.Delegate, CNIVersion: conf.CNIVersion, Chained: chained}
	if d, ok := p.Delegate["ipam"].(map[string]any); ok && l.DataDir == "" {
		l.DataDir, _ = d["dataDir"].(string)
	}
	if !filepath.IsAbs(l.DataDir) {
		l.DataDir = DefaultDataDir
	}
	if !filepath.IsAbs(l.FlannelDir) {
		l.FlannelDir = DefaultFlannelDir
	}
	return l, true
}

// SetAside takes the list out of the runtime's sight.
func (l List) SetAside() error {
	if l.Aside {
		return nil
	}
	return move(l.Path, l.Path+Aside)
}

// BringBack undoes SetAside.
func (l List) BringBack() error {
	if !l.Aside {
		return nil
	}
	return move(l.Path+Aside, l.Path)
}

// move renames durably, within one directory.
func move(from, to string) error {
	if err := os.Rename(from, to); err != nil {
		return err
	}
	return syncDir(filepath.Dir(to))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Default is the list that flannel's manifest installs (v0.28), for a node that never had one.
const Default = `{
  "name": "cbr0",
  "cniVersion": "0.3.1",
  "plugins": [
    {
      "type": "flannel",
      "delegate": {
        "hairpinMode": true,
        "isDefaultGateway": true
      }
    },
    {
      "type": "portmap",
      "capabilities": {
        "portMappings": true
      }
    }
  ]
}
`

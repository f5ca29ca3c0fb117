package install

import (
	"bytes"
	"context"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// PluginName is the name of the binary, and the "type" by which configuration lists call it.
const PluginName = "podnet-cni"

// pluginPackage is in the binary's build information.
const pluginPackage = "github.com/podnet/podnet/cmd/podnet-cni"

// Files says what goes where.
type Files struct {
	Plugin   string // the plugin's binary to install
	BinDir   string // where the runtime looks for plugins
	Conflist string // a configuration list to install after it; "" = none, the agent writes one
	ConfDir  string // where the runtime looks for configuration lists
}

// maxPlugin and maxConflist are larger than any real one: what is larger is the wrong file.
const (
	maxPlugin   = 256 << 20
	maxConflist = 1 << 20
)

// Install brings the files to where they belong, and returns the paths that it wrote.
func Install(ctx context.Context, f Files) (written []string, err error) {
	plugin, err := readRegular(f.Plugin, maxPlugin)
	if err != nil {
		return nil, fmt.Errorf("plugin: %w", err)
	}
	if !isPlugin(plugin) {
		return nil, fmt.Errorf("plugin %s: is no %s binary", f.Plugin, PluginName)
	}
	var list []byte
	if f.Conflist != "" { // before anything is written: both or nothing
		if list, err = readRegular(f.Conflist, maxConflist); err != nil {
			return nil, fmt.Errorf("conflist: %w", err)
		}
		if err := checkConflist(filepath.Base(f.Conflist), list); err != nil {
			return nil, fmt.Errorf("conflist %s: %w", f.Conflist, err)
		}
	}
	// 0600: the CIS Kubernetes benchmark, 1.1.9.
	for _, file := range []struct {
		dir, name string
		data      []byte
		mode      fs.FileMode
	}{{f.BinDir, PluginName, plugin, 0o755}, {f.ConfDir, filepath.Base(f.Conflist), list, 0o600}} {
		if file.data == nil {
			continue
		}
		changed, err := put(ctx, file.dir, file.name, file.data, file.mode)
		if err != nil {
			return written, err
		}
		if changed {
			written = append(written, filepath.Join(file.dir, file.name))
		}
	}
	return written, nil
}

// Uninstall removes what Install wrote, and returns the paths that it removed. It refuses while a configuration list still calls the plugin:
// the runtime could neither start nor stop pods then.
func Uninstall(ctx context.Context, f Files) (removed []string, err error) {
	if f.Conflist != "" {
		list, err := readRegular(f.Conflist, maxConflist)
		if err != nil {
			return nil, fmt.Errorf("conflist: %w", err)
		}
		path := filepath.Join(f.ConfDir, filepath.Base(f.Conflist))
		have, err := readRegular(path, maxConflist)
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return nil, err
		case bytes.Equal(list, have):
			if err := remove(ctx, f.ConfDir, filepath.Base(f.Conflist)); err != nil {
				return nil, err
			}
			removed = append(removed, path)
		}
	}
	callers, err := callers(f.ConfDir)
	if err != nil {
		return removed, err
	}
	path := filepath.Join(f.BinDir, PluginName)
	if len(callers) > 0 {
		return removed, fmt.Errorf("%s still calls %s: remove it first (podnet-agent --cleanup removes the agent's own)", strings.Join(callers, ", "), PluginName)
	}
	have, err := readRegular(path, maxPlugin)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return removed, nil
	case err != nil:
		return removed, err
	case !isPlugin(have):
		return removed, fmt.Errorf("%s: is not podnet's plugin: left as it is", path)
	}
	if err := remove(ctx, f.BinDir, PluginName); err != nil {
		return removed, err
	}
	return append(removed, path), nil
}

// isPlugin reports whether a file is a build of cmd/podnet-cni.
func isPlugin(data []byte) bool {
	info, err := buildinfo.Read(bytes.NewReader(data))
	return err == nil && info.Path == pluginPackage
}

// checkConflist finds files that are no configuration list; what the plugins make of it is theirs to say.
func checkConflist(name string, data []byte) error {
	if filepath.Ext(name) != ".conflist" || name == ".conflist" {
		return errors.New("want a file name that ends in .conflist")
	}
	var list struct {
		Name    string
		Plugins []struct{ Type string }
	}
	if err := json.Unmarshal(data, &list); err != nil {
		return err
	}
	if list.Name == "" || len(list.Plugins) == 0 {
		return errors.New("want a CNI configuration list with name and plugins")
	}
	return nil
}

// callers returns the configuration lists that name the plugin.
func callers(confDir string) ([]string, error) {
	if confDir == "" {
		return nil, nil
	}
	entries, err := os.ReadDir(confDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var out []string
	for _, e := range entries {
		path := filepath.Join(confDir, e.Name())
		switch filepath.Ext(e.Name()) {
		case ".conf", ".conflist", ".json":
		default:
			continue
		}
		data, err := readRegular(path, maxConflist)
		if err == nil && bytes.Contains(data, []byte(`"`+PluginName+`"`)) {
			out = append(out, path)
		}
	}
	return out, nil
}

func hash(data []byte) [sha256.Size]byte { return sha256.Sum256(data) }

// Package netns makes, enters and removes named network namespaces, in the form that ip-netns(8) uses.
package netns

import "path/filepath"

// dir is where ip-netns(8) mounts named namespaces.
const dir = "/run/netns"

// Path returns the path of the namespace called name.
func Path(name string) string { return filepath.Join(dir, name) }

// Name returns the name of the namespace at path, the reverse of Path.
func Name(path string) string { return filepath.Base(path) }

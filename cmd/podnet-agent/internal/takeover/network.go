package takeover

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

// Network is what podnet's configuration list keeps of flannel's: the name, under which the runtime and the chained plugins (portmap names its rules after it) know the
// containers that flannel has attached, and those plugins. It outlives flannel's list: with another name, podnet-cni would look for its leases elsewhere.
type Network struct {
	Name    string            `json:"name"`
	Chained []json.RawMessage `json:"chained"`
}

// Kept returns what stays of the list.
func (l List) Kept() Network { return Network{Name: l.Network, Chained: l.Chained} }

// LoadNetwork returns the network that was taken over: as recorded, else as flannel's list says that was set aside. The zero Network: none was.
func LoadNetwork(record, confDir string) (Network, error) {
	text, err := os.ReadFile(record)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return Network{}, fmt.Errorf("read what was taken over: %w", err)
	}
	var n Network
	if err == nil && json.Unmarshal(text, &n) == nil && n.Name != "" {
		return n, nil
	}
	if confDir == "" {
		return Network{}, nil
	}
	lists, err := FindLists(confDir)
	if err != nil {
		return Network{}, err
	}
	if i := slices.IndexFunc(lists, func(l List) bool { return l.Aside }); i >= 0 {
		return lists[i].Kept(), nil
	}
	return Network{}, nil
}

// Save records the network durably.
func (n Network) Save(record string) error {
	text, err := json.MarshalIndent(n, "", "  ")
	if err != nil {
		return err
	}
	if old, err := os.ReadFile(record); err == nil && string(old) == string(text)+"\n" {
		return nil
	}
	temp := record + ".new"
	if err := os.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := errors.Join(os.MkdirAll(filepath.Dir(record), 0o700), writeFile(temp, string(text)+"\n", 0o600)); err != nil {
		return err
	}
	return move(temp, record)
}

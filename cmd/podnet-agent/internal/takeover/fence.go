package takeover

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// A directory of leases is closed to a program by putting a file in its place: host-local and podnet-cni alike then fail to open or make it, also those
// processes that began before. The runtime tries again, and finds the other program configured. The directory itself moves aside.
const (
	fenceMark  = "podnet: leases handed over"
	fencedAway = ".handed-over" // ends the name of the directory that moved aside
)

// state is what stands at the path of a directory of leases.
type state int

const (
	missing state = iota // nothing
	open                 // a directory
	fenced               // our file
)

func stateOf(path string) (state, error) {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return missing, nil
	case err != nil:
		return 0, err
	case info.IsDir():
		return open, nil
	case !info.Mode().IsRegular():
		return 0, fmt.Errorf("%s: neither a directory nor a file: want a directory of leases", path)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	if !strings.HasPrefix(string(text), fenceMark) {
		return 0, fmt.Errorf("%s: a file that is not podnet's: want a directory of leases", path)
	}
	return fenced, nil
}

// fence closes the directory at path, or keeps it from being made. There is no moment with neither directory nor file.
func fence(path, to string) error {
	text := fenceMark + " to " + to + ".\nThe directory was moved to " + path + fencedAway + ".\n" +
		"\"podnet-agent migrate\" moves leases back and forth. While this file is here, nothing allocates from what was here.\n"
	aside := path + fencedAway
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if err := os.RemoveAll(aside); err != nil {
		return err
	}
	if err := writeFile(aside, text, 0o644); err != nil {
		return err
	}
	var err error
	if _, lerr := os.Lstat(path); errors.Is(lerr, fs.ErrNotExist) {
		err = os.Rename(aside, path)
	} else {
		err = exchange(aside, path)
	}
	if err != nil {
		return fmt.Errorf("close %s: %w", path, err)
	}
	return syncDir(filepath.Dir(path))
}

// reopen puts the directory fresh in the place of a fence, and forgets what was moved aside.
func reopen(path, fresh string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	st, err := stateOf(path)
	if err == nil && st == missing {
		err = os.Rename(fresh, path)
	} else if err == nil {
		err = exchange(fresh, path)
	}
	if err != nil {
		return fmt.Errorf("open %s: %w", path, err)
	}
	return errors.Join(syncDir(filepath.Dir(path)), os.RemoveAll(fresh), os.RemoveAll(path+fencedAway))
}

// writeFile writes a new file durably.
func writeFile(path, text string, mode fs.FileMode) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Sync(), f.Close())
}

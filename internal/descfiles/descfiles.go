// Package descfiles finds and watches the YAML and JSON files in which users of the commands describe nodes and Services.
package descfiles

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
)

// List returns the paths of the description files at path, a file or a directory, sorted.
func List(path string) ([]string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return []string{path}, nil
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return nil, err
	}
	var paths []string
	for _, e := range entries {
		switch name := e.Name(); strings.ToLower(filepath.Ext(name)) {
		case ".yaml", ".yml", ".json":
			if !strings.HasPrefix(name, ".") && !e.IsDir() {
				paths = append(paths, filepath.Join(path, name))
			}
		}
	}
	return paths, nil
}

// settle is how long a burst of events is gathered before a look.
const settle = 20 * time.Millisecond

// Watching is what Watch watches.
type Watching struct {
	Path   string        // a file or a directory
	Poll   time.Duration // looks at least so often, whatever the events
	Logger *slog.Logger
}

// Watch calls look at once, and then whenever something in the directory may have changed, until ctx ends; it returns the error of ctx.
func (w Watching) Watch(ctx context.Context, look func()) error {
	watcher, err := fsnotify.NewWatcher()
	var events <-chan fsnotify.Event
	var faults <-chan error
	if err != nil {
		w.Logger.Warn("descriptions are not watched, only polled", "path", w.Path, "poll", w.Poll, "err", err)
	} else {
		defer watcher.Close()
		events, faults = watcher.Events, watcher.Errors
	}
	poll := time.NewTicker(w.Poll)
	defer poll.Stop()
	next := time.NewTimer(0)
	defer next.Stop()
	due, gap := true, settle
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-events:
		case <-faults: // events were lost: look
		case <-poll.C:
		case <-next.C:
			due = false
			w.add(watcher)
			start := time.Now()
			look()
			gap = min(max(settle, 4*time.Since(start)), time.Second) // mostly never more than a fifth of one CPU; a change waits for a second at most
			continue
		}
		if !due {
			due = true
			next.Reset(gap)
		}
	}
}

// add watches the directory (again: one that was removed and made anew needs a new watch). The directory, not the file: a file that is
// replaced by rename is another one.
func (w Watching) add(watcher *fsnotify.Watcher) {
	if watcher == nil {
		return
	}
	dir := w.Path
	if info, err := os.Stat(dir); err != nil || !info.IsDir() {
		dir = filepath.Dir(dir)
	}
	if err := watcher.Add(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		w.Logger.Debug("watch descriptions", "path", dir, "err", err)
	}
}

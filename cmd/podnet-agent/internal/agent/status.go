package agent

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
)

// starting is the state of what was not looked at yet.
const starting = "starting"

// status is what the loop tells the world. It may be used by several goroutines.
type status struct {
	mu       sync.Mutex
	names    []string          // of the concerns, in order
	states   map[string]string // "" = stands
	notes    []string
	changes  int // of the nodes that were announced
	seen     int // of these that a whole pass has seen
	lastTick time.Time
}

func newStatus(names []string) *status {
	s := &status{names: names, states: make(map[string]string, len(names)), lastTick: time.Now()}
	for _, n := range names {
		s.states[n] = starting
	}
	return s
}

// set keeps a concern's state and returns whether it changed, and what it was.
func (s *status) set(name, state string) (changed bool, was string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	was = s.states[name]
	s.states[name] = state
	return was != state, was
}

// all returns how everything stands.
func (s *status) all() []State {
	s.mu.Lock()
	defer s.mu.Unlock()
	states := make([]State, len(s.names))
	for i, n := range s.names {
		states[i] = State{n, s.states[n]}
	}
	return states
}

func (s *status) setNotes(notes []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.notes = slices.Clone(notes)
}

// announce counts a change of the nodes: the agent is not ready until a pass that began after it is over.
func (s *status) announce() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.changes++
}

func (s *status) announced() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changes
}

func (s *status) saw(changes int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen = changes
}

func (s *status) tick() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lastTick = time.Now()
}

func (s *status) age() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return time.Since(s.lastTick)
}

// ready reports whether all stands as it should for what is wanted now, and why not.
func (s *status) ready() (bool, string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var b strings.Builder
	if s.seen != s.changes {
		fmt.Fprintln(&b, "a change of the nodes is being worked in")
	}
	for _, n := range s.names {
		if state := s.states[n]; state != "" {
			fmt.Fprintf(&b, "%s: %s\n", n, state)
		}
	}
	ok := b.Len() == 0
	if ok {
		b.WriteString("ok\n")
	}
	for i, n := range s.notes {
		if i == 20 {
			fmt.Fprintf(&b, "note: and %d more\n", len(s.notes)-i)
			break
		}
		fmt.Fprintf(&b, "note: %s\n", n)
	}
	return ok, b.String()
}

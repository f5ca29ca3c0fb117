package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var every = regexp.MustCompile("")

var update = flag.Bool("update", false, "write docs/faults.md")

const (
	root     = "../.."
	document = "docs/faults.md"
	recorded = "testdata/outcomes.json"
)

// TestCatalogueIsWhole: every fault of the reference has a row, once, with tests or with the reason why there are none.
func TestCatalogueIsWhole(t *testing.T) {
	have := map[string]int{}
	for _, a := range catalogue {
		for _, r := range a.Rows {
			have[r.ID]++
			switch {
			case r.Fault == "":
				t.Errorf("%s has no words", r.ID)
			case len(r.Tests) == 0 && r.Reason == "":
				t.Errorf("%s has neither tests nor the reason why not", r.ID)
			case len(r.Tests) > 0 && r.Want == "":
				t.Errorf("%s does not say what has to come of it", r.ID)
			}
			if strings.ContainsAny(r.Fault+r.Want+r.Reason, "|\n") {
				t.Errorf("%s breaks the table", r.ID)
			}
		}
	}
	for _, part := range []struct {
		letter string
		count  int
	}{{"K", 25}, {"A", 27}, {"B", 25}, {"C", 9}, {"D", 15}, {"E", 10}, {"EP", 12}} {
		for i := range part.count {
			id := fmt.Sprint(part.letter, i+1)
			if have[id] != 1 {
				t.Errorf("%s has %d rows, want 1", id, have[id])
			}
			delete(have, id)
		}
	}
	if len(have) > 0 {
		t.Errorf("rows that nobody knows: %v", have)
	}
}

// TestNamedTestsExist: the tests are there. What of them are subtests, make faults finds out when it runs them.
func TestNamedTestsExist(t *testing.T) {
	functions := map[string]map[string]bool{} // by package
	for _, test := range selected(every) {
		pkg, name, top := split(test)
		if functions[pkg] == nil {
			functions[pkg] = testFunctions(t, pkg)
		}
		if !functions[pkg][top] {
			t.Errorf("%s has no %s", pkg, top)
		}
		if strings.Contains(name, " ") {
			t.Errorf("%q: want the name as go test prints it, with _ for spaces", name)
		}
	}
}

func testFunctions(t *testing.T, pkg string) map[string]bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(root, pkg, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for _, path := range files {
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range file.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && f.Recv == nil {
				names[f.Name.Name] = true
			}
		}
	}
	return names
}

// TestDocument: docs/faults.md is what the catalogue and the recorded run make.
func TestDocument(t *testing.T) {
	outcomes := map[string]outcome{}
	data, err := os.ReadFile(recorded)
	if err == nil {
		err = json.Unmarshal(data, &outcomes)
	}
	if err != nil {
		t.Fatal(err)
	}
	want := markdown(catalogue, outcomes)
	path := filepath.Join(root, document)
	if *update {
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Errorf("%s (-want +got; go test ./test/faults -update):\n%s", document, diff)
	}
}

func TestParseAndTable(t *testing.T) {
	const lines = `{"Action":"start","Package":"p"}
{"Action":"run","Test":"TestA"}
{"Action":"run","Test":"TestA/one"}
{"Action":"output","Test":"TestA/one","Output":"=== RUN   TestA/one\n"}
{"Action":"attr","Test":"TestA/one","Key":"outage","Value":"12ms"}
{"Action":"attr","Test":"TestA/one","Key":"lost","Value":"0 of 300"}
{"Action":"pass","Test":"TestA/one","Elapsed":1.5}
{"Action":"fail","Test":"TestA/two","Elapsed":1}
{"Action":"fail","Test":"TestA","Elapsed":2.5}
{"Action":"skip","Test":"TestB","Elapsed":0}
{"Action":"fail","Package":"p"}
`
	outcomes := map[string]outcome{}
	var progress bytes.Buffer
	parse(strings.NewReader(lines), "p", false, &progress, outcomes)
	if want := "=== RUN   TestA/one\n"; progress.String() != want {
		t.Errorf("passed on %q, want %q: the output of what failed", &progress, want)
	}
	var table bytes.Buffer
	bad := printTable(&table, []area{{"Part", []row{
		{"X1", "first", "", []string{"p TestA/one"}, ""},
		{"X2", "second", "", []string{"p TestA/one", "p TestA/two"}, ""},
		{"X3", "third", "", []string{"p TestB"}, ""},
		{"X4", "fourth", "", nil, "nobody can"},
		{"X5", "fifth", "", []string{"p TestA/three"}, ""},
	}}}, every, outcomes)
	want := `
Part
X1   pass     first                                                          12 ms; lost 0 of 300 packets
X2   FAIL     second                                                         12 ms; lost 0 of 300 packets
              p TestA/two: fail
X3   NOT RUN  third
              p TestB: skip
X4   -        fourth                                                         nobody can
X5   NOT RUN  fifth
              p TestA/three: did not run

5 faults: 1 pass, 1 fail, 2 not run, 1 not tested (with the reason)
`
	if diff := cmp.Diff(want, table.String()); diff != "" || bad != 3 {
		t.Errorf("%d bad, want 3; table (-want +got):\n%s", bad, diff)
	}
}

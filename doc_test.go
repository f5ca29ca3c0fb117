package podnet_test

import (
	"go/ast"
	"go/doc"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestPackageDocumentation holds every public package to its doc.go and its Example with output (architecture.md, rule 15).
func TestPackageDocumentation(t *testing.T) {
	for _, dir := range publicPackages(t) {
		if _, err := os.Stat(filepath.Join(dir, "doc.go")); err != nil {
			t.Errorf("%s has no doc.go", dir)
			continue
		}
		fset := token.NewFileSet()
		file, err := parser.ParseFile(fset, filepath.Join(dir, "doc.go"), nil, parser.ParseComments)
		if err != nil {
			t.Error(err)
			continue
		}
		if text := file.Doc.Text(); len(text) < 400 && !strings.HasSuffix(dir, "test") {
			t.Errorf("%s: doc.go says too little: what it does, owns, never touches, how it fails, privileges, concurrency", dir)
		}
		if !hasExample(t, fset, dir) {
			t.Errorf("%s has no Example with // Output:", dir)
		}
	}
}

// publicPackages returns the directories of packages that others may import.
func publicPackages(t *testing.T) []string {
	t.Helper()
	seen := map[string]bool{}
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			switch d.Name() {
			case "cmd", "examples", "internal", "test", "testdata", "bin", "deploy", ".git", ".ci":
				return filepath.SkipDir
			}
			return nil
		}
		if strings.HasSuffix(path, ".go") && filepath.Dir(path) != "." && !strings.HasSuffix(path, "_test.go") {
			seen[filepath.Dir(path)] = true
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	var dirs []string
	for dir := range seen {
		dirs = append(dirs, dir)
	}
	return dirs
}

func hasExample(t *testing.T, fset *token.FileSet, dir string) bool {
	t.Helper()
	tests, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	var files []*ast.File
	for _, name := range tests {
		file, err := parser.ParseFile(fset, name, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, file)
	}
	for _, e := range doc.Examples(files...) {
		if e.Output != "" {
			return true
		}
	}
	return false
}

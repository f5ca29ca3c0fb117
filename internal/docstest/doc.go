// Package docstest keeps parts of docs/ as the code says: tables of a command's flags, of the metrics that it serves, and what else a test can make.
//
// What it does: a table stands in a document between two comments,
//
//	<!-- flags: written by go test ./cmd/x -run TestDocs -update -->
//	<!-- end -->
//
// and [Compare] holds it to what [Flags] and [Metrics] make of the code, or rewrites it.
//
// What it owns: nothing. Privileges: none, but to write the document. Concurrency: one test per document.
package docstest

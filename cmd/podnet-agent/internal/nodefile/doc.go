// Package nodefile reads node descriptions from a file or a directory and watches them: a cluster with no Kubernetes at all.
//
//	name: node-a
//	podCIDRs: [10.244.1.0/24, fd00:10:244:1::/64]
//	addresses: [192.168.1.11, fd00:192:168:1::11]  # in the underlay, one per family
//	vtepMAC: "02:00:0a:f4:01:00"                    # optional
//
// What it does: every *.yaml, *.yml and *.json file of the directory (not of its subdirectories; names that begin with a dot are
// skipped) holds any number of such documents: YAML documents divided by "---", or JSON objects one after the other. [Source.Run] looks when
// the directory changes and every poll interval, and parses only files that changed, and in them only documents that changed.
//
// What it owns: nothing. It only reads.
//
// Failure: a description that is broken is reported and skipped, the others work. What was known before is kept while a description is broken:
// of a document whose name can still be read, that node; of a file that cannot be read or parsed or is empty, every node that no other
// document of it names; of a directory that cannot be read, all. Removing a node means removing its document or file. Writers should
// replace files by rename: a file that is caught half written may be read as a shorter one.
//
// Bounds: 1 MiB for a document, 16 MiB for a file.
//
// Privileges: to read the files. Watching uses inotify on Linux; without it, only the poll interval counts.
//
// Concurrency: [Source.Snapshot] may be called at any time from any goroutine; Scan and Run are for one.
package nodefile

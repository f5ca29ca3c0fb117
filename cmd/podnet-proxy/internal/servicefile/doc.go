// Package servicefile reads Services and their endpoints from files: podnet-proxy without Kubernetes.
//
// What it does: [Source] reads a file, or every *.yaml, *.yml and *.json of a directory, watches it, and passes what changed on to a [kube.Sink]. Documents are Services
// (v1), EndpointSlices (discovery.k8s.io/v1), the Node of this host (v1) or Lists of them, as kubectl get -o yaml prints them, or a short form of its own that says all
// of one Service (docs/proxy.md):
//
//	service: default/web
//	addresses: [10.96.0.10]
//	ports: [{port: 80, targetPort: 8080}]
//	endpoints: [10.244.1.2, 10.244.2.7]
//
// What it owns: nothing. It writes no file.
//
// Failure: a document that is broken leaves what it described before as it was, and is a problem with file and line ([Source.Status]); all others count. A file or
// directory that cannot be read, and a file without any document, leave everything as it was: remove a file to remove what it describes. More than half of the
// Services missing at once are kept for a minute (Options.Hold).
//
// Write files as a whole and rename them into place: a half-written one is read as what it is.
//
// Privileges: to read. Concurrency: Run is called once; Status and Synced by anybody.
package servicefile

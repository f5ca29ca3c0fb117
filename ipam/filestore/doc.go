// Package filestore is a durable [ipam.Store] in one directory, for many processes at once.
package filestore

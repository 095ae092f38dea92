// Package crash kills replicas. Its tests run one in a process of its own, on
// Badger or Pebble, and send that process SIGKILL hundreds of times, at random
// moments, while it opens its store, writes, merges, migrates and closes. The
// test program itself is the peer that is never killed; broadcasts and blocks
// go through the child's standard input and output.
//
// The child says what it is about to do before it does it and when it is done,
// so the parent knows what was acknowledged, and what may or may not have taken
// effect. It also reports every block that it asks its DAG service for.
//
// SIGKILL ends a process, not the machine: what was written to a file is in the
// page cache of the system and outlives it. So these tests show that commits
// are whole, in the right order and handed to the system before a call returns.
// They do not show that they reach the disk: the stores are told to sync every
// write, as a replica that must survive a power cut needs it, but whether they
// do is not seen here.
package crash

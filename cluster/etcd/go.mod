// What raft-wal's default file system asks of etcd 3.3: one function. With this module in its place the program links neither that
// release, which scanners list with its known faults, nor the logging modules that it brings.
module github.com/coreos/etcd

go 1.26

// Package pb holds the protobuf messages that replicas exchange. The .proto
// file beside it is the source; the Go code is generated.
package pb

// protoc comes from the protobuf compiler's own package (Debian:
// protobuf-compiler); the plugin's version is pinned by the tools module.
//go:generate sh -c "GOBIN=$(go env GOPATH)/bin go -C ../tools install google.golang.org/protobuf/cmd/protoc-gen-go && PATH=$PATH:$(go env GOPATH)/bin protoc --go_out=. --go_opt=paths=source_relative crdt.proto"

// Command go runs clients of Go libraries, one at a time: it does what the
// client is there for, and says as JSON what came of it.
//
//	go coder    URL         a WebSocket of coder/websocket
//	go gorilla  URL         a WebSocket of gorilla/websocket
//	go kubectl  ADDR HOST   what kubectl exec does, by SPDY/3.1
//	go kubelet              the server for that; prints its address
//	go docker   ADDR HOST   what docker attach does, by Upgrade: tcp
//
// ADDR is where to connect, whatever address HOST has.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"time"
)

// A result is what a client got.
type result struct {
	Version     string `json:"version"`
	Subprotocol string `json:"subprotocol,omitempty"` // of a WebSocket, as negotiated
	Text        string `json:"text"`                  // the text that came back
	Binary      int    `json:"binary,omitempty"`      // how many bytes came back as they were sent
	Close       int    `json:"close,omitempty"`       // the server's close code
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintf(os.Stderr, "go %v: %v\n", os.Args[1:], err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) == 0 {
		return fmt.Errorf("no client named")
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if args[0] == "kubelet" {
		return kubelet(ctx)
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	var (
		r   result
		err error
	)
	switch {
	case args[0] == "coder" && len(args) == 2:
		r, err = coder(ctx, args[1])
	case args[0] == "gorilla" && len(args) == 2:
		r, err = gorilla(ctx, args[1])
	case args[0] == "kubectl" && len(args) == 3:
		r, err = kubectl(ctx, args[1], args[2])
	case args[0] == "docker" && len(args) == 3:
		r, err = docker(ctx, args[1], args[2])
	default:
		return fmt.Errorf("unknown client or wrong number of arguments")
	}
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(r)
}

// versionOf returns the version of a module that this command is built from.
func versionOf(module string) string {
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, dep := range info.Deps {
			if dep.Path == module {
				return dep.Version
			}
		}
	}
	return "unknown"
}

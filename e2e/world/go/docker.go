package main

import (
	"context"
	"io"
	"net"

	"github.com/moby/moby/client"
)

// docker sends a text to a container and reads what comes back, as docker
// attach does.
func docker(ctx context.Context, addr, host string) (result, error) {
	const text = "text of docker"
	r := result{Version: versionOf("github.com/moby/moby/client")}
	c, err := client.New(
		client.WithHost("tcp://"+host),
		client.WithDialContext(func(ctx context.Context, network, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, network, addr)
		}),
		client.WithAPIVersion("1.51"),
	)
	if err != nil {
		return r, err
	}
	defer c.Close()
	attached, err := c.ContainerAttach(ctx, "some", client.ContainerAttachOptions{Stream: true, Stdin: true, Stdout: true})
	if err != nil {
		return r, err
	}
	defer attached.Close()
	if _, err := io.WriteString(attached.Conn, text); err != nil {
		return r, err
	}
	got := make([]byte, len(text))
	_, err = io.ReadFull(attached.Reader, got)
	r.Text = string(got)
	return r, err
}

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	coderws "github.com/coder/websocket"
	gorillaws "github.com/gorilla/websocket"
)

// subprotocol is what the echo server speaks.
const subprotocol = "v1.echo"

func allBytes() []byte {
	b := make([]byte, 256)
	for i := range b {
		b[i] = byte(i)
	}
	return b
}

// coder sends a text and a binary message and reads them back.
func coder(ctx context.Context, url string) (result, error) {
	r := result{Version: versionOf("github.com/coder/websocket")}
	c, _, err := coderws.Dial(ctx, url, &coderws.DialOptions{Subprotocols: []string{subprotocol}, CompressionMode: coderws.CompressionContextTakeover})
	if err != nil {
		return r, err
	}
	defer c.CloseNow()
	r.Subprotocol = c.Subprotocol()
	for _, m := range []struct {
		typ  coderws.MessageType
		data []byte
	}{{coderws.MessageText, []byte("text of coder")}, {coderws.MessageBinary, allBytes()}} {
		if err := c.Write(ctx, m.typ, m.data); err != nil {
			return r, err
		}
		typ, data, err := c.Read(ctx)
		if err != nil {
			return r, err
		}
		if typ == coderws.MessageText {
			r.Text = string(data)
		} else if bytes.Equal(data, m.data) {
			r.Binary = len(data)
		}
	}
	if err := c.Write(ctx, coderws.MessageText, []byte("close 4001")); err != nil {
		return r, err
	}
	_, _, err = c.Read(ctx)
	r.Close = int(coderws.CloseStatus(err))
	return r, nil
}

// gorilla does the same with the other library.
func gorilla(ctx context.Context, url string) (result, error) {
	r := result{Version: versionOf("github.com/gorilla/websocket")}
	dialer := gorillaws.Dialer{Subprotocols: []string{subprotocol}, EnableCompression: true}
	c, _, err := dialer.DialContext(ctx, url, nil)
	if err != nil {
		return r, err
	}
	defer c.Close()
	r.Subprotocol = c.Subprotocol()
	for _, m := range []struct {
		typ  int
		data []byte
	}{{gorillaws.TextMessage, []byte("text of gorilla")}, {gorillaws.BinaryMessage, allBytes()}} {
		if err := c.WriteMessage(m.typ, m.data); err != nil {
			return r, err
		}
		typ, data, err := c.ReadMessage()
		if err != nil {
			return r, err
		}
		if typ == gorillaws.TextMessage {
			r.Text = string(data)
		} else if bytes.Equal(data, m.data) {
			r.Binary = len(data)
		}
	}
	if err := c.WriteMessage(gorillaws.TextMessage, []byte("close 4001")); err != nil {
		return r, err
	}
	_, _, err = c.ReadMessage()
	closed, ok := errors.AsType[*gorillaws.CloseError](err)
	if !ok {
		return r, fmt.Errorf("got %v, want a close frame", err)
	}
	r.Close = closed.Code
	return r, nil
}

// Package admin serves Envoy's administration endpoints, as far as they are
// simulated, from a data plane.
package admin

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"

	"switchyard/hostsim/proxy"
)

// Handler returns the endpoints /ready, /listeners, /stats and
// /quitquitquit. quit is called by the last one, once for each request to it.
func Handler(server *proxy.Server, quit func()) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, "/ready\n/listeners\n/listeners?format=json\n/stats\n/stats?filter=SUBSTRING\n/quitquitquit (POST)\n")
	})
	mux.HandleFunc("GET /ready", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, "LIVE\n")
	})
	mux.HandleFunc("GET /listeners", func(w http.ResponseWriter, r *http.Request) { listeners(w, r, server) })
	mux.HandleFunc("GET /stats", func(w http.ResponseWriter, r *http.Request) {
		filter := r.URL.Query().Get("filter")
		server.Stats.Each(func(name string, value int64) {
			if strings.Contains(name, filter) {
				fmt.Fprintf(w, "%s: %d\n", name, value)
			}
		})
	})
	mux.HandleFunc("POST /quitquitquit", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, "OK\n")
		quit()
	})
	return mux
}

// The JSON of /listeners?format=json, as Envoy prints it.
type (
	listenerStatuses struct {
		Statuses []listenerStatus `json:"listener_statuses"`
	}
	listenerStatus struct {
		Name  string  `json:"name"`
		Local address `json:"local_address"`
	}
	address struct {
		Socket socketAddress `json:"socket_address"`
	}
	socketAddress struct {
		Address string `json:"address"`
		Port    int    `json:"port_value"`
	}
)

func listeners(w http.ResponseWriter, r *http.Request, server *proxy.Server) {
	if r.URL.Query().Get("format") != "json" {
		for _, l := range server.Listeners() {
			fmt.Fprintf(w, "%s::%s\n", l.Name, l.Address)
		}
		return
	}
	var all listenerStatuses
	for _, l := range server.Listeners() {
		host, port, _ := net.SplitHostPort(l.Address.String())
		n, _ := strconv.Atoi(port)
		all.Statuses = append(all.Statuses, listenerStatus{l.Name, address{socketAddress{host, n}}})
	}
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(all)
}

package main

import (
	"fmt"
	"net"
	"os"
	"strconv"

	"go.yaml.in/yaml/v3"
)

// addresses are the four that a shipped bootstrap file names.
type addresses struct {
	listener, admin, web, websocket string
}

// address is an envoy.config.core.v3.Address.
type address struct {
	Socket struct {
		Address string `yaml:"address"`
		Port    int    `yaml:"port_value"`
	} `yaml:"socket_address"`
}

func (a address) String() string {
	return net.JoinHostPort(a.Socket.Address, strconv.Itoa(a.Socket.Port))
}

// readAddresses reads them from the file, so that they stand in one place only.
func readAddresses(file string) (addresses, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return addresses{}, fmt.Errorf("%w (run this in the repository root)", err)
	}
	var bootstrap struct {
		Admin struct {
			Address address `yaml:"address"`
		} `yaml:"admin"`
		Static struct {
			Listeners []struct {
				Address address `yaml:"address"`
			} `yaml:"listeners"`
			Clusters []struct {
				Name       string `yaml:"name"`
				Assignment struct {
					Endpoints []struct {
						LB []struct {
							Endpoint struct {
								Address address `yaml:"address"`
							} `yaml:"endpoint"`
						} `yaml:"lb_endpoints"`
					} `yaml:"endpoints"`
				} `yaml:"load_assignment"`
			} `yaml:"clusters"`
		} `yaml:"static_resources"`
	}
	if err := yaml.Unmarshal(data, &bootstrap); err != nil {
		return addresses{}, fmt.Errorf("%s: %w", file, err)
	}
	clusters := map[string]string{}
	for _, c := range bootstrap.Static.Clusters {
		if len(c.Assignment.Endpoints) == 1 && len(c.Assignment.Endpoints[0].LB) == 1 {
			clusters[c.Name] = c.Assignment.Endpoints[0].LB[0].Endpoint.Address.String()
		}
	}
	if len(bootstrap.Static.Listeners) != 1 || clusters["web"] == "" || clusters["websocket"] == "" {
		return addresses{}, fmt.Errorf("%s: want one listener and the clusters web and websocket with one endpoint each", file)
	}
	return addresses{
		listener:  bootstrap.Static.Listeners[0].Address.String(),
		admin:     bootstrap.Admin.Address.String(),
		web:       clusters["web"],
		websocket: clusters["websocket"],
	}, nil
}

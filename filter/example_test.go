package filter_test

import (
	"fmt"

	"switchyard/filter"
)

func ExampleDecide() {
	config, err := filter.ParseConfig([]byte(`{"rules": [{"protocol": "websocket", "cluster": "sockets"}]}`))
	if err != nil {
		fmt.Println(err)
		return
	}
	decision := filter.Decide(config, filter.Request{Headers: filter.HeaderMap{
		{Name: ":method", Value: "GET"},
		{Name: ":path", Value: "/live?id=7"},
		{Name: "x-upgrade-route", Value: "from the client"},
		{Name: "connection", Value: "keep-alive, Upgrade"},
		{Name: "upgrade", Value: "h2c, WebSocket"},
	}})
	fmt.Println(decision)
	for _, m := range decision.Mutations {
		if m.Op == filter.Remove {
			fmt.Println("remove", m.Name)
		} else {
			fmt.Println("set   ", m.Name+":", m.Value)
		}
	}
	// Output:
	// reason=offered route=websocket cluster=sockets protocol=WebSocket path=/live
	// remove x-upgrade-route
	// set    x-upgrade-route: websocket
	// set    x-upgrade-cluster: sockets
	// set    connection: Upgrade
	// set    upgrade: websocket
}

func ExampleClassify() {
	for _, upgrade := range []string{"websocket", "", "h2c;websocket"} {
		v := filter.Classify(filter.HeaderMap{{Name: "connection", Value: "Upgrade"}, {Name: "upgrade", Value: upgrade}})
		fmt.Printf("%q: %s\n", upgrade, v.Reason)
	}
	// Output:
	// "websocket": offered
	// "": nothing_offered
	// "h2c;websocket": malformed_upgrade
}

func ExampleParseConfig() {
	_, err := filter.ParseConfig([]byte(`{"rules": [{"protocol": "websocket"}, {"protocol": "spdy", "pathprefix": "/"}]}`))
	fmt.Println(err)
	// Output:
	// rules[1].pathprefix: unknown key, did you mean "path_prefix"?
}

package filter

// Counter says which counter a decision is to be added to. It is comparable, so that a host's metrics can be kept in a map.
//
// Its parts are the configuration's words and the reasons, never a client's: else clients could make a host's statistics
// grow without end. The zero Counter is none.
type Counter struct {
	// Rule is the name of the rule that decided, or "-" if none did.
	Rule   string
	Reason Reason
	// Protocol is what a rule calls the protocol that was chosen or, if none was, the first offered that a rule names;
	// else its name is "other".
	Protocol Protocol
}

// Name returns the name of the metric:
//
//	switchyard.decisions.rule.<rule>.reason.<reason>.protocol.<protocol>
//
// In Envoy it is called "wasmcustom." and that. No two counters have the same name, and these stats_tags take it apart, to
// switchyard_decisions{rule="live", reason="offered", protocol="spdy/3.1"} in Prometheus:
//
//	stats_config:
//	  stats_tags:
//	  - tag_name: rule
//	    regex: '^wasmcustom\.switchyard\.decisions(\.rule\.([^.]+))\.reason\.'
//	  - tag_name: reason
//	    regex: '^wasmcustom\.switchyard\.decisions\.rule\.[^.]+(\.reason\.([a-z_]+))\.protocol\.'
//	  - tag_name: protocol
//	    regex: '^wasmcustom\.switchyard\.decisions\.rule\.[^.]+\.reason\.[a-z_]+(\.protocol\.(.+))$'
func (c Counter) Name() string {
	return "switchyard.decisions.rule." + c.Rule + ".reason." + string(c.Reason) + ".protocol." + c.Protocol.String()
}

// counter returns the counter of a decision: rule is the one that matched and p the offer that it took, or nil.
func (c *Config) counter(reason Reason, rule *Rule, p Protocol, offers Elements) Counter {
	count := Counter{Rule: "-", Reason: reason, Protocol: Protocol{Name: "other"}}
	if rule != nil {
		count.Rule = rule.Name
		if named, ok := c.named(p); ok {
			count.Protocol = named
		}
		if !rule.anyProtocol() {
			count.Protocol = rule.Protocol
		}
		return count
	}
	if named, ok := c.named(p); ok { // an extended CONNECT's, or the first of the list
		count.Protocol = named
		return count
	}
	for element, ok := offers.Next(); ok; element, ok = offers.Next() {
		if p, ok := ParseProtocol(element); ok {
			if named, ok := c.named(p); ok {
				count.Protocol = named
				break
			}
		}
	}
	return count
}

// named returns what the first rule that names the protocol calls it.
func (c *Config) named(p Protocol) (Protocol, bool) {
	for i := range c.Rules {
		if r := &c.Rules[i]; !r.anyProtocol() && r.Protocol.covers(p) {
			return r.Protocol, true
		}
	}
	return Protocol{}, false
}

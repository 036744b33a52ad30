package admin

import (
	"cmp"
	"fmt"
	"net"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"time"

	adminv3 "github.com/envoyproxy/go-control-plane/envoy/admin/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"switchyard/hostsim/proxy"
)

// message is a message as JSON; everything says whether fields that are not
// set are shown too.
func message(m proto.Message, everything bool) response {
	body, err := protojson.MarshalOptions{UseProtoNames: true, EmitDefaultValues: everything}.Marshal(m)
	if err != nil {
		return text(500, err.Error())
	}
	return jsonResponse(body)
}

func socketAddress(address string) *corev3.Address {
	host, port, _ := net.SplitHostPort(address)
	n, _ := strconv.ParseUint(port, 10, 16)
	return &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
		Address: host, PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: uint32(n)},
	}}}
}

func (h *handler) listeners(p params) response {
	if format, _ := p.get("format"); format != "json" {
		var b strings.Builder
		for _, l := range h.server.Listeners() {
			fmt.Fprintf(&b, "%s::%s\n", l.Name, l.Address)
		}
		return text(200, b.String())
	}
	var all adminv3.Listeners
	for _, l := range h.server.Listeners() {
		all.ListenerStatuses = append(all.ListenerStatuses, &adminv3.ListenerStatus{Name: l.Name, LocalAddress: socketAddress(l.Address.String())})
	}
	return message(&all, false)
}

func (h *handler) clusters(p params) response {
	all := h.server.Clusters()
	if pattern, ok := p.get("filter"); ok {
		re, err := regexp.Compile(pattern)
		if err != nil {
			return text(400, "Invalid re2 regex")
		}
		var some []proxy.ClusterStatus
		for _, c := range all {
			if re.MatchString(c.Name) {
				some = append(some, c)
			}
		}
		all = some
	}
	if format, _ := p.get("format"); format == "json" {
		return message(clustersMessage(all), false)
	}
	var b strings.Builder
	for _, c := range all {
		line := func(item string, value any) { fmt.Fprintf(&b, "%s::%s::%v\n", c.Name, item, value) }
		line("observability_name", c.StatName)
		for i, priority := range []string{"default", "high"} {
			l := c.Limits[i]
			line(priority+"_priority::max_connections", l.Connections)
			line(priority+"_priority::max_pending_requests", l.Pending)
			line(priority+"_priority::max_requests", l.Requests)
			line(priority+"_priority::max_retries", l.Retries)
		}
		line("added_via_api", false)
		for _, x := range c.Hosts {
			for _, item := range []struct {
				name  string
				value any
			}{
				{"cx_active", x.ActiveConnections}, {"cx_connect_fail", x.ConnectFailures}, {"cx_total", x.Connections},
				{"rq_active", x.ActiveRequests}, {"rq_error", x.Failed}, {"rq_pending_active", x.Pending}, {"rq_success", x.Succeeded},
				{"rq_timeout", x.TimedOut}, {"rq_total", x.Requests}, {"hostname", x.Hostname},
				{"health_flags", cmp.Or(strings.Join(x.Flags, ""), "healthy")}, {"weight", x.Weight},
				{"region", x.Region}, {"zone", x.Zone}, {"sub_zone", x.SubZone}, {"canary", x.Canary}, {"priority", x.Priority},
				{"success_rate", -1}, {"local_origin_success_rate", -1},
			} {
				line(x.Address+"::"+item.name, item.value)
			}
		}
	}
	return text(200, b.String())
}

func clustersMessage(all []proxy.ClusterStatus) *adminv3.Clusters {
	m := &adminv3.Clusters{}
	for _, c := range all {
		s := &adminv3.ClusterStatus{Name: c.Name, ObservabilityName: c.StatName, CircuitBreakers: &clusterv3.CircuitBreakers{}}
		for i, l := range c.Limits {
			s.CircuitBreakers.Thresholds = append(s.CircuitBreakers.Thresholds, &clusterv3.CircuitBreakers_Thresholds{
				Priority:       corev3.RoutingPriority(i),
				MaxConnections: wrapperspb.UInt32(uint32(l.Connections)), MaxPendingRequests: wrapperspb.UInt32(uint32(l.Pending)),
				MaxRequests: wrapperspb.UInt32(uint32(l.Requests)), MaxRetries: wrapperspb.UInt32(uint32(l.Retries)),
			})
		}
		for _, x := range c.Hosts {
			hs := &adminv3.HostStatus{
				Address: socketAddress(x.Address), Weight: x.Weight, Hostname: x.Hostname, Priority: uint32(x.Priority),
				Locality:     &corev3.Locality{Region: x.Region, Zone: x.Zone, SubZone: x.SubZone},
				HealthStatus: &adminv3.HostHealthStatus{EdsHealthStatus: corev3.HealthStatus(corev3.HealthStatus_value[x.Health])},
			}
			metric := func(name string, t adminv3.SimpleMetric_Type, n int64) {
				hs.Stats = append(hs.Stats, &adminv3.SimpleMetric{Name: name, Type: t, Value: uint64(n)})
			}
			metric("cx_connect_fail", adminv3.SimpleMetric_COUNTER, x.ConnectFailures)
			metric("cx_total", adminv3.SimpleMetric_COUNTER, x.Connections)
			metric("rq_error", adminv3.SimpleMetric_COUNTER, x.Failed)
			metric("rq_success", adminv3.SimpleMetric_COUNTER, x.Succeeded)
			metric("rq_timeout", adminv3.SimpleMetric_COUNTER, x.TimedOut)
			metric("rq_total", adminv3.SimpleMetric_COUNTER, x.Requests)
			metric("cx_active", adminv3.SimpleMetric_GAUGE, x.ActiveConnections)
			metric("rq_active", adminv3.SimpleMetric_GAUGE, x.ActiveRequests)
			metric("rq_pending_active", adminv3.SimpleMetric_GAUGE, x.Pending)
			s.HostStatuses = append(s.HostStatuses, hs)
		}
		m.ClusterStatuses = append(m.ClusterStatuses, s)
	}
	return m
}

func (h *handler) memory(params) response {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return message(&adminv3.Memory{
		Allocated: m.HeapAlloc, HeapSize: m.HeapSys, PageheapUnmapped: m.HeapReleased, PageheapFree: m.HeapIdle - m.HeapReleased,
		TotalPhysicalBytes: m.Sys - m.HeapReleased,
	}, true)
}

// The Envoy that is simulated, and what stands for its build.
const (
	versionMajor, versionMinor, versionPatch = 1, 40, 0
	revision, revisionStatus, build, library = "hostsim", "Clean", "RELEASE", "Go"
)

func buildVersion() *corev3.BuildVersion {
	return &corev3.BuildVersion{
		Version: &typev3.SemanticVersion{MajorNumber: versionMajor, MinorNumber: versionMinor, Patch: versionPatch},
		Metadata: &structpb.Struct{Fields: map[string]*structpb.Value{
			"revision.sha": structpb.NewStringValue(revision), "revision.status": structpb.NewStringValue(revisionStatus),
			"build.type": structpb.NewStringValue(build), "ssl.version": structpb.NewStringValue(library),
		}},
	}
}

// node is the bootstrap's, with what Envoy adds to it; of its list of
// extensions there is none here.
func (h *handler) node() *corev3.Node {
	n := &corev3.Node{}
	if c := h.options.Bootstrap.GetNode(); c != nil {
		n = proto.Clone(c).(*corev3.Node)
	}
	n.UserAgentName = "envoy"
	n.UserAgentVersionType = &corev3.Node_UserAgentBuildVersion{UserAgentBuildVersion: buildVersion()}
	return n
}

func (h *handler) serverInfo(params) response {
	c := h.options.CommandLine
	uptime := durationpb.New(time.Since(h.started).Truncate(time.Second))
	strategy := adminv3.CommandLineOptions_Gradual
	if c.DrainAtOnce {
		strategy = adminv3.CommandLineOptions_Immediate
	}
	return message(&adminv3.ServerInfo{
		Version:            fmt.Sprintf("%s/%d.%d.%d/%s/%s/%s", revision, versionMajor, versionMinor, versionPatch, revisionStatus, build, library),
		State:              adminv3.ServerInfo_State(h.server.State()),
		UptimeCurrentEpoch: uptime, UptimeAllEpochs: uptime, HotRestartVersion: hotRestartVersion,
		CommandLineOptions: &adminv3.CommandLineOptions{
			Concurrency: uint32(c.Concurrency), ConfigPath: c.ConfigPath, ConfigYaml: c.ConfigYAML, AdminAddressPath: c.AdminAddressPath,
			LogLevel: c.LogLevel, ComponentLogLevel: c.ComponentLogLevel, LogPath: c.LogPath, LogFormat: "[%Y-%m-%d %T.%e][%t][%l][%n] [%g:%#] %v",
			FileFlushInterval: durationpb.New(c.FileFlushInterval), DrainTime: durationpb.New(c.DrainTime), DrainStrategy: strategy,
			ParentShutdownTime: durationpb.New(15 * time.Minute), DisableHotRestart: c.DisableHotRestart, UseDynamicBaseId: c.UseDynamicBaseID,
			SocketPath: "@envoy_domain_socket",
		},
		Node: h.node(),
	}, true)
}

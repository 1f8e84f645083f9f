"""A peer of the mesh that knows nothing but the AsyncAPI document.

Usage: peer.py DOCUMENT ASKING_URL EVENTS_URL IDENTITY REQUEST_TYPE REQUEST_DATA EVENT_TYPE

Binds a queue of its own to EVENT_TYPE, by a login that may do so; sends REQUEST_DATA as REQUEST_TYPE with the caller's
token, by the login of a service that may ask; then prints two lines of JSON: the reply's data, and the first event whose
data carries the id that the reply gave.
"""

import datetime
import json
import sys
import uuid

import pika


def channel_of(document, message_type):
    """The channel that carries a message type, found by following the document's references."""
    key = next(k for k, m in document["components"]["messages"].items() if m["name"] == message_type)
    for name, channel in document["channels"].items():
        if key in channel["messages"] and not name.startswith("subscription_"):
            return channel
    raise LookupError(message_type)


def envelope(message_type, data, identity):
    return {
        "specversion": "1.0",
        "id": str(uuid.uuid4()),
        "source": "/third-party/python",
        "type": message_type,
        "time": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z",
        "datacontenttype": "application/json",
        "timeoutms": 15000,
        "identity": identity,
        "data": data,
    }


def main():
    path, asking_url, events_url, identity, request_type, request_data, event_type = sys.argv[1:]
    with open(path, encoding="utf-8") as file:
        document = json.load(file)

    asking = pika.URLParameters(asking_url)
    connection = pika.BlockingConnection(asking)
    channel = connection.channel()
    channel.confirm_delivery()
    listening = pika.BlockingConnection(pika.URLParameters(events_url))
    listener = listening.channel()

    events = channel_of(document, event_type)
    exchange = events["bindings"]["amqp"]["exchange"]
    listener.exchange_declare(exchange["name"], exchange["type"], durable=exchange["durable"])
    queue = listener.queue_declare("", exclusive=True).method.queue
    listener.queue_bind(queue, exchange["name"], events["address"])

    request = envelope(request_type, json.loads(request_data), identity)
    seen = {}
    wanted = {}

    def on_reply(_channel, _method, _properties, body):
        reply = json.loads(body)
        if reply["causationid"] == request["id"]:
            wanted["reply"] = reply["data"]

    def on_event(events_channel, method, _properties, body):
        event = json.loads(body)
        seen[event["data"]["command_id"]] = event
        events_channel.basic_ack(method.delivery_tag)

    channel.basic_consume("amq.rabbitmq.reply-to", on_reply, auto_ack=True)
    listener.basic_consume(queue, on_event)
    channel.basic_publish(
        exchange="muster.requests",
        routing_key=request_type,
        body=json.dumps(request).encode(),
        properties=pika.BasicProperties(
            content_type=document["defaultContentType"],
            message_id=request["id"],
            user_id=asking.credentials.username,
            type=request_type,
            reply_to="amq.rabbitmq.reply-to",
            delivery_mode=2,
        ),
        mandatory=True,
    )

    deadline = datetime.datetime.now() + datetime.timedelta(seconds=40)
    while datetime.datetime.now() < deadline:
        connection.process_data_events(time_limit=0.1)
        listening.process_data_events(time_limit=0.1)
        reply = wanted.get("reply")
        if reply is None:
            continue
        if not reply["ok"]:
            break
        if reply["result"]["command"]["id"] in seen:
            break
    print(json.dumps(wanted.get("reply")))
    if wanted.get("reply", {}).get("ok"):
        print(json.dumps(seen.get(wanted["reply"]["result"]["command"]["id"])))
    connection.close()
    listening.close()


main()

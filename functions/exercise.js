// sandlot: {"visibility": "public"}
(event, context) => ({ message: 'it works!', status: 'ok ' })
